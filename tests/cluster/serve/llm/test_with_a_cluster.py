"""An LLMRouter whose replicas a kvatlas cluster follows: one index a node in place of one a process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack

import pytest

from kvatlas.cluster import launch
from kvatlas.cluster.client import Client
from kvatlas.cluster.config.actors_config import ShardsConfig
from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.cluster.serve.llm.options import RouterOptions
from kvatlas.ingest.discovery.config import DiscoveryConfig, DiscoveryLimits
from tests.cluster.serve.llm.ray_parts import (
    OTHER,
    PROMPT,
    REUSED,
    Engine,
    LlmRouter,
    arrived,
    ended,
    engines,
    routers,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.usefixtures("shared_ray"),
    pytest.mark.timeout(300),
]

CLUSTER = "of-serve-llm"


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    config = ClusterConfig(
        name=CLUSTER,
        discovery=DiscoveryConfig(limits=DiscoveryLimits(grace_s=1.0)),
        shards=ShardsConfig(count=1, table_bytes_max=64 << 20),
    )
    with launch.start(config) as client:
        yield client
    launch.down(CLUSTER)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async def true() -> None:
        while not await condition():
            await asyncio.sleep(0.05)

    await asyncio.wait_for(true(), 60)


def test_the_cluster_follows_the_replicas_and_chooses_among_them(client: Client, stack: ExitStack) -> None:
    fleet = engines(stack, 3)
    (router,) = routers(stack, 1, RouterOptions(cluster=CLUSTER))
    numbers = iter(range(10_000))

    async def goes_to(engine: Engine, prompt: list[int]) -> bool:
        """Whether a request does; it ends at once."""
        request_id = str(next(numbers))
        pod = await router.route(request_id, prompt)
        await router.hear(arrived(request_id, engine), *ended(request_id, engine, cached=0))
        receipt = await router.hear(("kvatlas_receipt", (request_id,)))
        return pod == engine.pod and receipt is not None and receipt["predicted_cached_tokens"] == REUSED

    async def follows(followed: list[Engine]) -> bool:
        return {worker.pod for worker in client.pods()} == {engine.pod for engine in followed}

    async def test() -> None:
        router.update(fleet)
        for number, engine in enumerate(fleet):
            engine.server.serve([7000 + number] * 40)
        await until(lambda: follows(fleet))
        fleet[1].server.serve(PROMPT)
        await until(lambda: goes_to(fleet[1], PROMPT))
        await load_is_counted(router, fleet)
        router.update(fleet[:1])
        await until(lambda: follows(fleet[:1]))

    asyncio.run(test())


async def load_is_counted(router: LlmRouter, fleet: list[Engine]) -> None:
    """Requests that run count where they are, and no longer when they have ended."""
    pods = [await router.route(f"of three {number}", OTHER[number:]) for number in range(3)]
    assert len(set(pods)) == 3
    assert [router.load(engine) for engine in fleet] == [1, 1, 1]
    for number, pod in enumerate(pods):
        engine = next(engine for engine in fleet if engine.pod == pod)
        await router.hear(*ended(f"of three {number}", engine))
    assert [router.load(engine) for engine in fleet] == [0, 0, 0]
