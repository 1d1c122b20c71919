"""Simulated pods and a proxy before them, each in a process of its own, as the load is."""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from kvatlas.cluster.config.proxy_config import ProxyConfig
from kvatlas.cluster.proxy.proxy import Proxy
from kvatlas.cluster.proxy.server import ProxyServer, event_loop_factory
from kvatlas.cluster.proxy.simulator.openai_pod import OpenAiPod
from kvatlas.index.choosing.chooser import Chooser
from kvatlas.index.choosing.serving import Serving, ServingPod
from kvatlas.ingest.atlas import Atlas
from kvatlas.ingest.config import AtlasConfig
from kvatlas.ingest.simulator.server import SimulatedServer
from kvatlas.ingest.sockets.source_config import SourceConfig
from kvatlas.ingest.sockets.subscriber import Subscriber

MODEL = "bench/model"
_BLOCKS = 1 << 15


class ProxiedFleet:
    """A context manager; `pods` and `url` are where to ask."""

    def __init__(self, n_pods: int, tokens_per_s: float) -> None:
        self._n_pods = n_pods
        self._tokens_per_s = tokens_per_s
        self._ends: list[tuple[Any, Connection]] = []
        self.pods: list[str] = []
        self.url = ""

    def __enter__(self) -> ProxiedFleet:
        told = self._begin(_run_pods, self._n_pods, self._tokens_per_s)
        self.pods = [url for url, _, _ in told]
        self.url = self._begin(_run_proxy, told)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process, pipe in reversed(self._ends):
            pipe.close()
            process.join(10)
            if process.is_alive():
                process.kill()

    def proxy_cpu_s(self) -> float:
        """That the proxy has used so far."""
        _, pipe = self._ends[1]
        pipe.send("cpu")
        used: float = pipe.recv()
        return used

    def _begin(self, run: Any, *arguments: Any) -> Any:
        spawning = multiprocessing.get_context("spawn")
        near, far = spawning.Pipe()
        process = spawning.Process(target=run, args=(far, *arguments), daemon=True)
        process.start()
        far.close()
        self._ends.append((process, near))
        return near.recv()


def _run_pods(pipe: Connection, count: int, tokens_per_s: float) -> None:
    async def serve() -> None:
        told = []
        for number in range(count):
            server = SimulatedServer(f"pod{number}", MODEL, blocks=_BLOCKS)
            publisher = server.listen()
            url = await OpenAiPod(server, tokens_per_s=tokens_per_s).start()
            told.append((url, publisher.endpoint, publisher.replay_endpoint))
        pipe.send(told)
        await _until_closed(pipe)

    _play(serve())


def _run_proxy(pipe: Connection, pods: list[tuple[str, str, str | None]]) -> None:
    async def serve() -> None:
        atlas = Atlas(AtlasConfig())
        sources = [SourceConfig(endpoint=events, replay_endpoint=replay) for _, events, replay in pods]
        with Subscriber(atlas, sources):
            for number, (url, _, _) in enumerate(pods):
                serving = ServingPod(pod=f"pod{number}", model=MODEL, serving=Serving(url=url))
                atlas.set_serving(f"pod{number}", serving)
            server = ProxyServer(Proxy(ProxyConfig(host="127.0.0.1"), Chooser(atlas), atlas))
            pipe.send(await server.start(port=0))
            await _until_closed(pipe)
            await server.stop(drain_s=0.0)

    _play(serve())


async def _until_closed(pipe: Connection) -> None:
    """Says what is asked until nobody is there to ask."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()

    def answer() -> None:
        try:
            pipe.recv()
        except (EOFError, OSError):
            loop.remove_reader(pipe.fileno())
            over.set()
        else:
            used = resource.getrusage(resource.RUSAGE_SELF)
            pipe.send(used.ru_utime + used.ru_stime)

    loop.add_reader(pipe.fileno(), answer)
    await over.wait()


def _play(serving: Any) -> None:
    loop = event_loop_factory()()
    loop.run_until_complete(serving)
