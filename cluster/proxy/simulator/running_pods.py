"""Some simulated pods, on an event loop and a thread of their own, which publish their events over ZeroMQ."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from kvatlas.cluster.proxy.server import event_loop_factory
from kvatlas.cluster.proxy.simulator.openai_pod import OpenAiPod
from kvatlas.index.choosing.serving import Serving
from kvatlas.ingest.discovery.entries import PodEntry
from kvatlas.ingest.simulator.server import SimulatedServer

_BLOCKS = 4096


class RunningPod(NamedTuple):
    """One of them, and where it is."""

    pod: OpenAiPod
    url: str
    events: str
    replays: str | None

    @property
    def entry(self) -> PodEntry:
        """As discovery wants it."""
        server = self.pod.server
        return PodEntry(
            pod=server.pod,
            endpoint=self.events,
            replay_endpoint=self.replays,
            model=server.model,
            serving=Serving(url=self.url),
        )


class RunningPods:
    """A context manager; `pods` are pod-a, pod-b and so on."""

    def __init__(
        self,
        count: int,
        model: str,
        *,
        token_ids_of: Callable[[dict[str, Any]], Sequence[int]] | None = None,
        tokens_per_s: float = 1000.0,
    ) -> None:
        """`token_ids_of`: of a request's body, where they are not in it. `tokens_per_s`: of each stream."""
        self._count = count
        self._model = model
        self._token_ids_of = token_ids_of
        self._tokens_per_s = tokens_per_s
        self._loop = event_loop_factory()()
        self._ready = threading.Event()
        self._ending = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="simulated-pods", daemon=True)
        self.pods: list[RunningPod] = []

    @property
    def entries(self) -> tuple[PodEntry, ...]:
        return tuple(one.entry for one in self.pods)

    def __enter__(self) -> RunningPods:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._ready.set()
            self._loop.close()

    async def _serve(self) -> None:
        for number in range(self._count):
            self.pods.append(await self._begun(f"pod-{chr(ord('a') + number)}"))
        self._ready.set()
        await self._ending.wait()
        for one in self.pods:
            one.pod.stop()
            one.pod.server.close()

    async def _begun(self, name: str) -> RunningPod:
        server = SimulatedServer(name, self._model, blocks=_BLOCKS)
        publisher = server.listen()
        pod = OpenAiPod(server, tokens_per_s=self._tokens_per_s)
        if self._token_ids_of is not None:
            pod.token_ids_of = self._token_ids_of
        return RunningPod(pod, await pod.start(), publisher.endpoint, publisher.replay_endpoint)
