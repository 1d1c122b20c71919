"""Checkpoints: what a mirror or a store holds, in a file, with the place in the stream where it held it.

    file := magic "KVATLAS\\n" | version u32 | section(head) | section(part)* | section(empty)
    section := length u32 | crc32 u32 | bytes                                     little-endian

docs/checkpoint_format.md has it byte by byte. Nothing of a file counts before all of it was read
and checked, and the file appears under its name only when it is whole.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np

from kvatlas.index._native import Keyspace
from kvatlas.index.errors import CheckpointError
from kvatlas.index.keys import Algorithm
from kvatlas.index.replacing import replacing

MAGIC = b"KVATLAS\n"
VERSION = 1
_START = struct.Struct("<8sI")
_SECTION = struct.Struct("<II")
_HEAD_BYTES_MAX = 1 << 20
_PART_BYTES_MAX = 1 << 30
FILE_BYTES_MAX = 8 << 30
"""More than the largest mirror takes."""


class KeyspaceMark(msgspec.Struct, frozen=True):
    """What block keys were made with, without the seed itself."""

    block_size_tokens: int
    algorithm: Algorithm
    digest: bytes
    """Of one block key: differs when the seed or the model does."""

    @classmethod
    def of(cls, space: Keyspace, algorithm: Algorithm, block_size_tokens: int) -> KeyspaceMark:
        probe = space.keys(np.arange(block_size_tokens, dtype=np.uint32), None, None, None)
        digest = hashlib.blake2b(probe.tobytes(), digest_size=8, person=b"kvatlas.chkpoint").digest()
        return cls(block_size_tokens, algorithm, digest)


class WorkerIdentity(msgspec.Struct, frozen=True, tag="worker"):
    """Whose mirror it is."""

    model: str
    pod: str
    rank: int
    keyspace: KeyspaceMark


class StoreIdentity(msgspec.Struct, frozen=True, tag="store"):
    """Which store it is."""

    model: str
    name: str
    keyspace: KeyspaceMark


Identity = WorkerIdentity | StoreIdentity


class GroupMark(msgspec.Struct, frozen=True):
    """A cache group of the worker; it must have a lane before the mirror is restored."""

    group: int
    kind: str | None
    """As the events spell it; None: they did not say."""
    window_tokens: int = 0
    block_size_tokens: int = 0


class StreamPosition(msgspec.Struct, frozen=True):
    """The last batch applied."""

    sequence: int
    payload_checksum: int
    """`kvatlas.ingest._native.checksum` of its payload: tells this incarnation from another."""


class CheckpointHead(msgspec.Struct, frozen=True):
    """What is known beside the content, of the moment at which the snapshot was begun."""

    identity: Identity
    time_s: float
    """Unix time."""
    groups: tuple[GroupMark, ...] = ()
    position: StreamPosition | None = None
    """None: no batch was applied yet, or none is meant (stores)."""
    truth: bytes = b""
    """What the owner of the stream doubts; opaque here."""


class Checkpoint(msgspec.Struct, frozen=True):
    """A file read and checked as a whole."""

    head: CheckpointHead
    parts: list[bytes]


def write_checkpoint(path: Path, head: CheckpointHead, parts: Iterable[bytes]) -> int:
    """Writes a file that is whole or not there; replaces an older one. Returns its size in bytes.

    `parts` are drawn one by one, while the file is written. Raises CheckpointError when the disk
    does not take it; what `parts` raises is passed on. Either way an older file stays as it was.
    """
    encoded = msgspec.msgpack.encode(head)
    if len(encoded) > _HEAD_BYTES_MAX:
        raise CheckpointError(
            f"{path}: expected a head of at most {_HEAD_BYTES_MAX} bytes, got {len(encoded)}"
        )
    try:
        with replacing(path) as file:
            file.write(_START.pack(MAGIC, VERSION))
            _write_section(file, encoded)
            for part in parts:
                _write_section(file, part)
            _write_section(file, b"")
            return file.tell()
    except OSError as error:
        raise CheckpointError(f"{path}: expected to write a checkpoint, got {error}") from error


def _write_section(file: BinaryIO, content: bytes) -> None:
    if len(content) > _PART_BYTES_MAX:
        raise CheckpointError(f"part: expected at most {_PART_BYTES_MAX} bytes, got {len(content)}")
    file.write(_SECTION.pack(len(content), zlib.crc32(content)))
    file.write(content)


def read_checkpoint(path: Path, expected: Identity, *, bytes_max: int = FILE_BYTES_MAX) -> Checkpoint:
    """Reads a file and checks that it is whole and of the one expected.

    Raises CheckpointError when it is not there, torn, too large, of another version, or of
    another worker, store or keyspace.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > bytes_max:
                raise CheckpointError(f"{path}: expected at most {bytes_max} bytes, got {size}")
            sections = _Sections(path, file, size)
            head = sections.head()
            _require_identity(path, head.identity, expected)
            return Checkpoint(head, sections.parts())
    except OSError as error:
        raise CheckpointError(f"{path}: expected a checkpoint, got {error}") from error


def read_head(path: Path) -> CheckpointHead:
    """Whose file it says it is; the content is not looked at. Raises CheckpointError as above."""
    try:
        with open(path, "rb") as file:
            return _Sections(path, file, os.fstat(file.fileno()).st_size).head()
    except OSError as error:
        raise CheckpointError(f"{path}: expected a checkpoint, got {error}") from error


class _Sections:
    """The sections of an open file, in order."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self._path = path
        self._file = file
        self._size = size
        start = file.read(_START.size)
        magic, version = _START.unpack(start) if len(start) == _START.size else (start, 0)
        if magic != MAGIC:
            raise CheckpointError(f"{path}: expected a checkpoint, got a file that begins with {start[:8]!r}")
        if version != VERSION:
            raise CheckpointError(f"{path}: expected version {VERSION}, got {version}")

    def head(self) -> CheckpointHead:
        encoded = self._next(_HEAD_BYTES_MAX)
        try:
            return msgspec.msgpack.decode(encoded, type=CheckpointHead)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{self._path}: expected a head, got {error}") from error

    def parts(self) -> list[bytes]:
        parts = list(iter(lambda: self._next(_PART_BYTES_MAX), b""))
        if self._file.tell() != self._size:
            left = self._size - self._file.tell()
            raise CheckpointError(f"{self._path}: expected the end after the last section, got {left} bytes")
        return parts

    def _next(self, bytes_max: int) -> bytes:
        at = self._file.tell()
        start = self._file.read(_SECTION.size)
        length, crc = _SECTION.unpack(start) if len(start) == _SECTION.size else (0, None)
        if crc is None or length > self._size - at - _SECTION.size:
            raise CheckpointError(f"{self._path}, byte {at}: expected a section, got the end of a torn file")
        if length > bytes_max:
            raise CheckpointError(
                f"{self._path}, byte {at}: expected at most {bytes_max} bytes, got {length}"
            )
        content = self._file.read(length)
        if zlib.crc32(content) != crc:
            raise CheckpointError(f"{self._path}, byte {at}: expected checksum {crc}, got another")
        return content


def _require_identity(path: Path, got: Identity, expected: Identity) -> None:
    if type(got) is not type(expected):
        raise CheckpointError(f"{path}: expected that of a {_kind(expected)}, got that of a {_kind(got)}")
    for name in got.__struct_fields__:
        ours, theirs = getattr(expected, name), getattr(got, name)
        if ours == theirs:
            continue
        if name == "keyspace" and (ours.block_size_tokens, ours.algorithm) == (
            theirs.block_size_tokens,
            theirs.algorithm,
        ):
            raise CheckpointError(f"{path}: expected block keys of this atlas's hash_seed, got another's")
        raise CheckpointError(f"{path}: expected {name} {ours!r}, got {theirs!r}")


def _kind(identity: Identity) -> str:
    return "worker" if isinstance(identity, WorkerIdentity) else "store"
