"""Health and reflection, as gRPC defines them for every service."""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from kvatlas.tokenize.service.wire.definition import Definition


class Health:
    """Tells whoever asks whether the services serve: in all, and by their names."""

    def __init__(self, services: Iterable[str]) -> None:
        self._servicer = health.HealthServicer()
        self._names = (health.OVERALL_HEALTH, *services)
        for name in self._names:
            self._servicer.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)

    def add_to(self, server: grpc.Server) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    def serves(self) -> None:
        for name in self._names:
            self._servicer.set(name, health_pb2.HealthCheckResponse.SERVING)

    def leaves(self) -> None:
        """For good: whoever balances load turns to others while the last calls end."""
        self._servicer.enter_graceful_shutdown()


def add_reflection(server: grpc.Server, definitions: Iterable[Definition]) -> None:
    """Tells whoever asks what calls there are and what messages they take."""
    pool = DescriptorPool()
    names = [health.SERVICE_NAME, reflection.SERVICE_NAME]
    for definition in definitions:
        pool.AddSerializedFile(definition.file.SerializeToString())
        names += definition.services
    for module in (health_pb2, reflection_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    reflection.enable_server_reflection(names, server, pool=pool)
