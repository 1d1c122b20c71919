"""Whoever asks a cluster: a driver, actors, event loops, scorers; over sockets and over Ray calls."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
import ray

from kvatlas.actors.orders import decode
from kvatlas.actors.reading.reader_status import ReaderStatus
from kvatlas.actors.reading.settings import ReaderSettings
from kvatlas.cluster import launch
from kvatlas.cluster.client import Client
from kvatlas.cluster.config.actors_config import ScorersConfig, ShardsConfig
from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.index.errors import ClusterError, InputError
from tests.cluster.living_fleet import MODEL, Fleet, fleet_of, living_process_of, process_of, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.usefixtures("shared_ray"),
    pytest.mark.timeout(300),
]

ASKING = msgspec.structs.replace(ReaderSettings(), attaches=False, fetch_s_max=10.0)


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with fleet_of(3) as fleet:
        fleet.serve(40)
        yield fleet


@pytest.fixture(scope="module", params=["zmq", "ray"])
def client(request: pytest.FixtureRequest, fleet: Fleet) -> Iterator[Client]:
    config = ClusterConfig(
        name=f"by-{request.param}",
        transport=request.param,
        discovery=fleet.discovery,
        shards=ShardsConfig(count=2, table_bytes_max=64 << 20),
        scorers=ScorersConfig(count=1),
    )
    with launch.start(config) as client:
        fleet.wait_agreed(client)
        yield client
    launch.down(config.name)


class _Asker:
    """An actor that asks in its event loop."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def ask(self, prompts: list[list[int]]) -> tuple[list[Any], list[Any], Any, int]:
        scores = await asyncio.gather(*(self._client.score_async(p, model=MODEL) for p in prompts))
        many = await self._client.score_many_async(prompts, model=MODEL)
        status = await self._client.status_async()
        explanation = await self._client.explain_async(prompts[0], model=MODEL)
        return list(scores), list(many), explanation, len(status.shards)


@pytest.mark.parametrize("settings", [ReaderSettings(), ASKING], ids=["attached", "asking"])
def test_an_actor_asks_from_its_event_loop(client: Client, fleet: Fleet, settings: ReaderSettings) -> None:
    made: Any = ray.remote(_Asker)
    actor = made.options(num_cpus=0).remote(Client(client.cluster, settings))
    prompts = fleet.prompts[:8]
    scores, many, explanation, n_shards = ray.get(actor.ask.remote(prompts), timeout=60)
    expected = [client.score(prompt, model=MODEL) for prompt in prompts]
    assert [one.matches for one in scores] == [one.matches for one in expected]
    assert [one.matches for one in many] == [one.matches for one in expected]
    assert all(one.is_whole for one in scores)
    assert explanation == client.explain(prompts[0], model=MODEL)
    assert n_shards == 2
    ray.kill(actor)


def test_the_way_of_each_shard_is_told(client: Client) -> None:
    with Client(client.cluster, ASKING) as asking:
        asking.wait_ready(60)
        assert {shard.how for shard in asking.reading().shards} == {"asked"}
    assert {shard.how for shard in client.reading().shards} == {"attached"}


def test_a_scorer_answers_everything_that_a_client_does(client: Client, fleet: Fleet) -> None:
    scorer, prompts = client.scorer(), fleet.prompts[:6]
    ids = [np.array(prompt, np.uint32) for prompt in prompts]
    one: Any = ray.get(scorer.score.remote(ids[0].tobytes(), model=MODEL))
    assert one.matches == client.score(prompts[0], model=MODEL).matches
    assert one.is_whole
    offsets = np.cumsum([0, *map(len, ids)])
    many: Any = ray.get(scorer.score_many.remote(np.concatenate(ids), model=MODEL, offsets=offsets))
    assert [found.matches for found in many] == [client.score(p, model=MODEL).matches for p in prompts]
    explained: Any = ray.get(scorer.explain.remote(prompts[0], model=MODEL))
    assert explained == client.explain(prompts[0], model=MODEL)
    status = decode(ray.get(scorer.reading.remote()), ReaderStatus)
    assert (status.cluster, status.is_trusted, len(status.shards)) == (client.cluster, True, 2)
    with pytest.raises(InputError, match="token"):
        ray.get(scorer.score.remote([-1, 5], model=MODEL))


def test_a_scorer_that_is_killed_reads_on_when_it_is_back(client: Client, fleet: Fleet) -> None:
    name = f"{client.cluster}/scorer/0"
    before = living_process_of(name)
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: process_of(name) not in (0, before), 60)
    prompt = fleet.prompts[0]
    again: Any = ray.get(client.scorer().score.remote(prompt, model=MODEL))
    assert again.matches == client.score(prompt, model=MODEL).matches


def test_clients_of_a_process_share_a_connection_that_ends_with_the_last(client: Client) -> None:
    settings = msgspec.structs.replace(ReaderSettings(), view_wait_s=0.7)

    def threads() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name == "cluster view"}

    before = threads()
    first, second = Client(client.cluster, settings), Client(client.cluster, settings)
    for one in (first, second):
        one.wait_ready(60)
    (thread,) = threads() - before
    first.close()
    assert second.reading().is_trusted
    del second, one
    gc.collect()
    wait_until(lambda: not thread.is_alive(), 60)
    with pytest.raises(ClusterError, match="closed"):
        first.reading()


def test_a_client_of_a_cluster_that_is_not_there_says_so() -> None:
    with Client("nobody") as client, pytest.raises(ClusterError, match="nobody"):
        client.score([1, 2, 3], model=MODEL)
