"""A proxy with an event loop and a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

from kvatlas.cluster.config.proxy_config import ProxyConfig
from kvatlas.cluster.proxy.proxy import Chooser, Proxy
from kvatlas.cluster.proxy.proxy_metrics import ProxyStatistics
from kvatlas.cluster.proxy.served_models import ServedBy
from kvatlas.cluster.proxy.server import ProxyServer, event_loop_factory

_DRAIN_S = 10.0


class RunningProxy:
    """Listens until `stop`. Any thread may call any method.

    `port`: instead of the configured one; 0: any that is free. Raises ConfigError where it cannot listen,
    OSError where `pod_token_file` cannot be read.
    """

    def __init__(
        self, config: ProxyConfig, chooser: Chooser, fleet: ServedBy, *, port: int | None = None
    ) -> None:
        self._loop = event_loop_factory()()
        self._listening: Future[str] = Future()
        self._ending: asyncio.Event | None = None
        self._drain_s = _DRAIN_S
        self._server: ProxyServer | None = None
        self._thread = threading.Thread(
            target=self._run, args=(config, chooser, fleet, port), name="kvatlas-proxy", daemon=True
        )
        self._thread.start()
        self.url = self._listening.result()
        """Where it can be asked on this machine."""

    def statistics(self) -> ProxyStatistics:
        assert self._server is not None
        return self._server.statistics()

    def stop(self, drain_s: float = _DRAIN_S) -> None:
        """Takes no more; running answers have so long to end. Twice is fine."""
        self._drain_s = drain_s
        if self._ending is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ending.set)
            self._thread.join()

    def _run(self, config: ProxyConfig, chooser: Chooser, fleet: ServedBy, port: int | None) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve(config, chooser, fleet, port))
        except BaseException as error:
            if self._listening.done():
                raise
            self._listening.set_exception(error)
        finally:
            self._loop.close()

    async def _serve(self, config: ProxyConfig, chooser: Chooser, fleet: ServedBy, port: int | None) -> None:
        self._ending = asyncio.Event()
        server = self._server = ProxyServer(Proxy(config, chooser, fleet))
        self._listening.set_result(await server.start(port=port))
        await self._ending.wait()
        await server.stop(self._drain_s)
