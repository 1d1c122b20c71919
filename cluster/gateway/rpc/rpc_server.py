"""The gateway's gRPC server, from its configuration."""

from __future__ import annotations

from kvatlas.cluster.config.gateway_config import GatewayConfig
from kvatlas.cluster.gateway.rpc.rpc_answers import RpcAnswers
from kvatlas.cluster.gateway.rpc.schemas import DEFINITIONS
from kvatlas.tokenize.service.config import ServiceConfig
from kvatlas.tokenize.service.serving.grpc_server import GrpcServer


def rpc_server(config: GatewayConfig, answers: RpcAnswers) -> GrpcServer:
    """REQUIRES: `config.grpc.listen` names an address. The caller starts and stops it."""
    grpc, limits = config.grpc, config.limits
    service = ServiceConfig(
        listen=grpc.listen,
        threads=grpc.threads,
        waiting_max=grpc.waiting_max,
        waiting_bytes_max=limits.bodies_bytes_max,
        answer_s_max=limits.answer_s_max,
        message_bytes_max=limits.body_bytes_max,
        tls_certificate_file=grpc.tls_certificate_file,
        tls_key_file=grpc.tls_key_file,
        tls_client_ca_file=grpc.tls_client_ca_file,
        reflection=grpc.reflection,
    )
    # Replicas on one node listen at the same fixed port; the system deals out connections.
    return GrpcServer("gateway", answers, DEFINITIONS, service, shares_ports=config.replicas > 1)
