"""tokenization.proto, compiled by protobuf's own compiler: what a client of another maker has."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

PROTO = Path(__file__).resolve().parents[3] / "tokenize" / "service" / "wire" / "tokenization.proto"


@cache
def compiled_file() -> FileDescriptorProto:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "descriptors"
        compiler = [sys.executable, "-m", "grpc_tools.protoc"]
        subprocess.run(
            [*compiler, f"-I{PROTO.parent}", f"--descriptor_set_out={out}", PROTO.name], check=True
        )
        files = FileDescriptorSet.FromString(out.read_bytes())
    (file,) = files.file
    return file


@cache
def _pool() -> DescriptorPool:
    pool = DescriptorPool()
    pool.AddSerializedFile(compiled_file().SerializeToString())
    return pool


def compiled_class(name: str) -> Any:
    """A class as generated code would have it."""
    return GetMessageClass(_pool().FindMessageTypeByName(f"tokenization.{name}"))


@cache
def _pool_without_own_fields() -> DescriptorPool:
    file = FileDescriptorProto()
    file.CopyFrom(compiled_file())
    for message in file.message_type:
        own = [place for place, field in enumerate(message.field) if field.number >= 1000]
        for place in reversed(own):
            # An optional field has a oneof of its own; it is the last.
            assert message.field[place].oneof_index == len(message.oneof_decl) - 1
            del message.oneof_decl[-1]
            del message.field[place]
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool


def foreign_class(name: str) -> Any:
    """As llm-d's programs have it: it does not know the fields that are kvatlas's own."""
    return GetMessageClass(_pool_without_own_fields().FindMessageTypeByName(f"tokenization.{name}"))
