"""A proxy that listens: its socket, its clock, and its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from kvatlas.cluster.proxy.http.client_connection import ClientConnection
from kvatlas.cluster.proxy.http.request import BodyRoom
from kvatlas.cluster.proxy.proxy import Proxy
from kvatlas.cluster.proxy.proxy_metrics import ProxyStatistics
from kvatlas.index.errors import ConfigError

_LOOK_EVERY_S = 0.5
_BACKLOG = 4096
_WRITE_BYTES_MAX = 256 << 10
"""Of an answer that waits for its client; then the pod waits too."""


class ProxyServer:
    """Serves one proxy over HTTP/1.1, on the event loop that runs."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self._clients: set[ClientConnection] = set()
        self._room = BodyRoom(proxy.config.limits.bodies_bytes_max)
        self._server: asyncio.Server | None = None
        self._clock: asyncio.Task[None] | None = None
        proxy.metrics.include(self.statistics)

    async def start(self, *, port: int | None = None) -> str:
        """Listens; returns its URL. `port`: instead of the configured one; 0: any that is free.

        Raises ConfigError where it cannot.
        """
        config = self.proxy.config
        at = config.port if port is None else port
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(self._connected, config.host, at, backlog=_BACKLOG)
        except (OSError, UnicodeError) as error:
            raise ConfigError(f"proxy: expected to listen at {config.host}:{at}, got {error}") from error
        self._clock = loop.create_task(self._watch())
        return self.url

    @property
    def url(self) -> str:
        """Where it can be asked on this machine, or by the address it listens at."""
        assert self._server is not None
        host, port = map(str, self._server.sockets[0].getsockname()[:2])
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def stop(self, drain_s: float = 10.0) -> None:
        """Takes no more, lets running answers end for so long, then cuts them. Twice is fine."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for client in list(self._clients):
            client.close_when_idle()
        until_s = asyncio.get_running_loop().time() + drain_s
        while self._clients and asyncio.get_running_loop().time() < until_s:
            await asyncio.sleep(0.02)
        for client in list(self._clients):
            client.close()
        self.proxy.pods.close()
        if self._clock is not None:
            self._clock.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._clock
        await server.wait_closed()

    def statistics(self) -> ProxyStatistics:
        proxy = self.proxy
        return ProxyStatistics(
            clients=len(self._clients),
            requests=proxy.requests,
            pod_connections=len(proxy.pods),
            body_bytes=self._room.held,
            counts=dict(proxy.counts),
            answers=dict(proxy.answers),
        )

    def _connected(self) -> ClientConnection:
        limits = self.proxy.config.limits
        client = ClientConnection(
            self.proxy.serve,
            limits,
            self._room,
            self.proxy.counts,
            lambda: len(self._clients) > limits.connections_max,
            self._clients.discard,
        )
        self._clients.add(client)
        return client

    async def _watch(self) -> None:
        """Ends what is past its time; one clock for all, so that a part of a stream sets none."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            now_s = loop.time()
            for client in [one for one in self._clients if one.due_s <= now_s]:
                client.expire()
            self.proxy.pods.expire(now_s)


def event_loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop's, which takes half the time for each part of a stream, or Python's where there is none."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
