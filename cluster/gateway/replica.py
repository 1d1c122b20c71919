"""One process of the gateway: what Ray Serve runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import msgspec

from kvatlas.cluster.client import Client
from kvatlas.cluster.config.gateway_config import GatewayConfig
from kvatlas.cluster.gateway.desk import Desk
from kvatlas.cluster.gateway.web.answers import ReadyAnswer
from kvatlas.cluster.gateway.web.app import GatewayApp
from kvatlas.index.errors import KvatlasError

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from kvatlas.tokenize.service.serving.grpc_server import GrpcServer

DEPLOYMENT = "gateway"
_PEERS_S_MAX = 2.0
_END_S_MAX = 2.0
_log = logging.getLogger(__name__)


class GatewayReplica:
    """A client of the cluster, asked over HTTP through Serve, and over gRPC at a port of its own.

    Why not gRPC through Serve's proxies: they want the services when Serve itself is started, and, where
    there are several applications, one's name in the metadata of each call, which llm-d's clients do
    not send; and each call would cross a Ray call more.
    """

    def __init__(self, cluster: str, config: bytes, peers_of: str | None) -> None:
        """`config`: a GatewayConfig, as msgpack. `peers_of`: the Serve application, where there may be
        other replicas."""
        from kvatlas.cluster import launch

        self._told = config
        self._config = msgspec.msgpack.decode(config, type=GatewayConfig)
        self._client: Client = launch.connect(cluster)
        self._peers_of = peers_of
        self._peers: Any = None
        self._rpc: GrpcServer | None = None
        self._desk = Desk(self._client, self._ask_peers if peers_of is not None else None)

    async def __serve_build_asgi_app__(self) -> Starlette:
        """Serve asks for it once, on the event loop that requests then come in."""
        app = GatewayApp(self._desk, self._config, readiness=self._readiness)
        if self._config.grpc.listen:
            self._start_rpc(app, asyncio.get_running_loop())
        return app.asgi

    async def ask_here(self, kind: str, inner_id: str, arguments: bytes) -> bytes | None:
        """What another replica asks: see `Desk.answer_elsewhere`."""
        return self._desk.answer_elsewhere(kind, inner_id, arguments)

    async def told(self) -> bytes:
        """The configuration that it was made with."""
        return self._told

    def __del__(self) -> None:
        """Serve calls it when the replica ends."""
        if rpc := getattr(self, "_rpc", None):
            rpc.stop(_END_S_MAX)
        if client := getattr(self, "_client", None):
            client.close()

    def _start_rpc(self, app: GatewayApp, loop: asyncio.AbstractEventLoop) -> None:
        from kvatlas.cluster.gateway.rpc.rpc_answers import RpcAnswers
        from kvatlas.cluster.gateway.rpc.rpc_server import rpc_server

        def run(asked: Coroutine[Any, Any, Any]) -> Any:
            return asyncio.run_coroutine_threadsafe(asked, loop).result(self._config.limits.answer_s_max)

        containers_max = self._config.limits.containers_max
        answers = RpcAnswers(
            self._desk, app.tenants, app.rates, app.metrics, run, containers_max=containers_max
        )
        self._rpc = rpc_server(self._config, answers)
        _log.info("gateway: gRPC at %s", ", ".join(self._rpc.start()))

    def _readiness(self) -> ReadyAnswer:
        addresses = self._rpc.addresses if self._rpc is not None else ()
        try:
            reading = self._client.reading()
        except KvatlasError as error:
            return ReadyAnswer(is_ready=False, says=str(error), grpc=addresses)
        missing = [one.shard for one in reading.shards if one.how == "missing"]
        says = "" if reading.is_trusted else f"the directory does not answer: {reading.says}"
        if missing:
            says = f"shards {', '.join(map(str, missing))} cannot be read"
        # Answers without some shards are sound: they say so themselves.
        return ReadyAnswer(is_ready=reading.is_trusted, says=says, grpc=addresses)

    async def _ask_peers(self, kind: str, inner_id: str, arguments: bytes) -> bytes | None:
        """All replicas are asked, this one too: Serve can name none. Some milliseconds."""
        try:
            if self._peers is None:
                from ray import serve

                self._peers = serve.get_deployment_handle(DEPLOYMENT, self._peers_of)
            asked = self._peers.broadcast("ask_here", kind, inner_id, arguments)
            told = await asked.results_async(timeout_s=_PEERS_S_MAX, return_exceptions=True)
        except Exception as error:  # one that just ends must not turn a 404 into a 500
            _log.warning("gateway: other replicas cannot be asked: %s", error)
            return None
        return next((one for one in told if isinstance(one, bytes)), None)
