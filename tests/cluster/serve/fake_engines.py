"""A deployment whose replicas have real caches and publish real events, but no model."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import Any

import ray
from ray import serve
from ray.serve.config import RequestRouterConfig

from kvatlas.cluster.serve.routers import Advertisement, KvatlasReplica
from kvatlas.cluster.serve.sharing import fleets_here
from kvatlas.ingest.simulator.server import SimulatedServer

MODEL = "test/model"
BLOCK = 16
ROUTER = "kvatlas.cluster.serve.routers:KvatlasReplicaRouter"


class Gate:
    """Where calls wait until somebody opens it; it knows where they came from."""

    def __init__(self) -> None:
        self._opened = asyncio.Event()
        self._waiting: Counter[str] = Counter()

    async def wait(self, replica: str) -> None:
        opened, waiting = self._opened, self._waiting  # as it is now: others may close it meanwhile
        waiting[replica] += 1
        try:
            await opened.wait()
        finally:
            waiting[replica] -= 1

    def close(self) -> None:
        """For those who come from now on; who waits already is forgotten."""
        self._opened, self._waiting = asyncio.Event(), Counter()

    def open(self) -> None:
        self._opened.set()

    def waiting(self) -> dict[str, int]:
        """By replica."""
        return dict(+self._waiting)


class FakeEngine(KvatlasReplica):
    """Answers who it is and what it reused; a call with a gate is answered when that opens."""

    def __init__(self, advertises: bool = True) -> None:
        self._name = serve.get_replica_context().replica_id.unique_id
        self._server = SimulatedServer(self._name, MODEL, blocks=4096, block_size=BLOCK)
        publisher = self._server.listen()
        if advertises:
            self.advertise(
                Advertisement(
                    model=MODEL,
                    endpoint=publisher.endpoint,
                    replay_endpoint=publisher.replay_endpoint,
                    block_size_tokens=BLOCK,
                )
            )

    async def generate(self, token_ids: Any, gate: Any = None) -> tuple[str, int]:
        """(replica, tokens reused)."""
        reused = self._server.serve(list(token_ids), 4)
        if gate is not None:
            await gate.wait.remote(self._name)
        return self._name, reused

    async def __call__(self, request: Any) -> dict[str, str]:
        return {"replica": self._name}

    async def state(self) -> dict[str, Any]:
        return {"name": self._name, "pid": os.getpid()}


class Asking:
    """A process of its own that holds a handle: calls the engines, and tells of its router."""

    def __init__(self, engines: Any) -> None:
        self._engines = engines

    async def ask(self, prompts: list[list[int]]) -> list[tuple[str, int]]:
        """All at once, within one request: they share its id."""
        answers = await asyncio.gather(*(self._engines.generate.remote(prompt) for prompt in prompts))
        return list(answers)

    async def ask_in_turn(self, prompts: list[list[int]]) -> list[tuple[str, int]]:
        return [await self._engines.generate.remote(prompt) for prompt in prompts]

    def followed(self) -> int:
        """Pods whose events its process follows."""
        return sum(fleet.statistics().followed for fleet in fleets_here().values())

    def counted(self) -> int:
        """Requests that its chooser counts at all replicas, those of other processes too."""
        (chooser,) = (fleet.chooser for fleet in fleets_here().values())
        assert chooser is not None
        chooser.choose(model=MODEL, request_id="look", reserve=False)
        (receipt,) = chooser.receipts("", 1)
        chooser.failed("look")
        return sum(one.requests for one in receipt.candidates)


def engines(
    name: str = "engines", *, advertises: bool = True, router: dict[str, Any] | None = None, **options: Any
) -> Any:
    """The application, `options` for its deployment."""
    fields: dict[str, Any] = {
        "request_router_class": ROUTER,
        "request_router_kwargs": router or {},
        "request_routing_stats_period_s": 0.5,
    }
    config = RequestRouterConfig(**fields)
    deployment = serve.deployment(
        name=name,
        request_router_config=config,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_wait_loop_s=0.1,  # each replica that goes waits once at least
        **{"max_ongoing_requests": 100, **options},
    )(FakeEngine)
    return deployment.bind(advertises)


def new_gate() -> Any:
    """A closed one."""
    return ray.remote(Gate).options(num_cpus=0, max_concurrency=1000).remote()
