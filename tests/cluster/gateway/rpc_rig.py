"""Clients of the gateway's gRPC services, as other makers have them: compiled from the .proto files."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from kvatlas.cluster.config.gateway_config import GatewayConfig, GrpcConfig
from kvatlas.cluster.gateway.desk import Desk
from kvatlas.cluster.gateway.rpc.rpc_answers import RpcAnswers
from kvatlas.cluster.gateway.rpc.rpc_server import rpc_server
from kvatlas.cluster.gateway.web.app import GatewayApp
from tests.cluster.gateway.rig import PATIENCE_S, EmbeddedBackend

PROTO_FOLDER = Path(__file__).resolve().parents[3] / "cluster" / "gateway" / "rpc"
LISTEN = GrpcConfig(listen=("127.0.0.1:0",))


@cache
def compiled_file(name: str) -> FileDescriptorProto:
    """A .proto file, as protobuf's own compiler reads it."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "descriptors"
        compiler = [sys.executable, "-m", "grpc_tools.protoc"]
        subprocess.run([*compiler, f"-I{PROTO_FOLDER}", f"--descriptor_set_out={out}", name], check=True)
        (file,) = FileDescriptorSet.FromString(out.read_bytes()).file
    return file


@cache
def _pool(name: str) -> DescriptorPool:
    pool = DescriptorPool()
    pool.AddSerializedFile(compiled_file(name).SerializeToString())
    return pool


def _serialized(message: Any) -> bytes:
    payload: bytes = message.SerializeToString()
    return payload


class Stub:
    """Calls the service of one .proto file."""

    def __init__(self, address: str, file: str, token: str = "") -> None:
        self.channel = grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)])
        self._file = compiled_file(file)
        self._metadata = [("authorization", f"Bearer {token}")] if token else []

    def call(self, method: str, **fields: Any) -> Any:
        (service,) = self._file.service
        (kinds,) = [one for one in service.method if one.name == method]
        pool = _pool(self._file.name)
        request, response = (
            GetMessageClass(pool.FindMessageTypeByName(name.removeprefix(".")))
            for name in (kinds.input_type, kinds.output_type)
        )
        path = f"/{self._file.package}.{service.name}/{method}"
        stub: Any = self.channel.unary_unary(path, _serialized, response.FromString)
        return stub(request(**fields), timeout=PATIENCE_S, metadata=self._metadata)


@contextmanager
def served_rpc(backend: EmbeddedBackend, config: GatewayConfig | None = None) -> Iterator[str]:
    """The gRPC services over a backend; their address."""
    config = config or GatewayConfig(grpc=LISTEN)
    desk = Desk(backend)
    app = GatewayApp(desk, config)
    containers_max = config.limits.containers_max
    answers = RpcAnswers(desk, app.tenants, app.rates, app.metrics, containers_max=containers_max)
    server = rpc_server(config, answers)
    (address,) = server.start()
    try:
        yield address
    finally:
        server.stop(0)
