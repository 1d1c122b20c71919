"""Ray actors of one's own share an index in Redis: each hears some pods, another hears nobody and answers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, cast

import pytest
import ray
from ray.exceptions import RayActorError

from kvatlas import Atlas, AtlasConfig, Subscriber
from kvatlas.cluster.client import Client
from kvatlas.index.remote.connection.settings import RemoteSettings
from kvatlas.index.remote.fleet.opening import open_index
from kvatlas.index.remote.fleet.remote_atlas import RemoteAtlas
from kvatlas.index.remote.fleet.settings import SharingSettings
from kvatlas.ingest.discovery.entries import PodEntry
from kvatlas.ingest.index_config import IndexConfig
from kvatlas.ingest.sockets.source_config import SourceConfig
from tests.cluster.living_fleet import MODEL, Fleet, fleet_of, wait_until
from tests.servers.fixtures import redis_server as redis_server
from tests.servers.fixtures import shared_servers as shared_servers
from tests.servers.redis_server import RedisServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.usefixtures("shared_ray"),
    pytest.mark.timeout(300),
]
SEED = "seed"
SHARING = SharingSettings(lease_s=3.0, refresh_s=0.1)


class _Hearing:
    """An actor that follows some pods, and tells the server; one that died begins anew by their replays."""

    def __init__(self, url: str, entries: tuple[PodEntry, ...]) -> None:
        server = RemoteSettings(url=url, timeout_ms=5000, write_timeout_ms=10_000)
        index = IndexConfig(kind="remote", server=server, sharing=SHARING)
        self._atlas = Atlas(AtlasConfig(hash_seed=SEED, index=index))
        sources = [
            SourceConfig(
                endpoint=cast(str, one.endpoint),
                replay_endpoint=one.replay_endpoint,
                pod=one.pod,
                model=one.model,
            )
            for one in entries
        ]
        self._subscriber = Subscriber(self._atlas, sources).start()

    def die(self) -> None:
        os._exit(1)

    def close(self) -> int:
        """Its process id."""
        self._subscriber.stop()
        self._atlas.close()
        return os.getpid()


class _Answering:
    """An actor that hears nobody."""

    def __init__(self, url: str) -> None:
        self._reader = open_index(url, hash_seed=SEED, sharing=SHARING, timeout_ms=5000)

    def scores(self, prompts: list[list[int]]) -> list[dict[str, float]]:
        return [dict(self._reader.score(prompt, model=MODEL)) for prompt in prompts]

    def close(self) -> None:
        self._reader.close()


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with fleet_of(4) as fleet:
        fleet.serve(40)
        yield fleet


@pytest.fixture
def hearing(fleet: Fleet, redis_server: RedisServer) -> Iterator[list[Any]]:
    """Two actors with half of the pods each."""
    kind: Any = ray.remote(_Hearing)
    made = kind.options(num_cpus=0, max_restarts=1, max_task_retries=1)
    actors = [made.remote(redis_server.url, fleet.entries[half::2]) for half in range(2)]
    yield actors
    for actor in actors:
        assert ray.get(actor.close.remote(), timeout=60) != os.getpid()
        ray.kill(actor)


def opened(url: str) -> RemoteAtlas:
    """When a writer has been there."""
    found: list[RemoteAtlas] = []

    def look() -> bool:
        try:
            found.append(open_index(url, hash_seed=SEED, sharing=SHARING, timeout_ms=5000))
        except Exception as error:
            print(error)
        return bool(found)

    wait_until(look, 60)
    return found[0]


def agree(fleet: Fleet, reader: RemoteAtlas) -> None:
    asked = cast(Client, reader)
    wait_until(lambda: not fleet.differences(asked), 60, lambda: fleet.differences(asked)[:3])


def test_actors_share_an_index_and_one_that_dies_comes_back(
    fleet: Fleet, hearing: list[Any], redis_server: RedisServer
) -> None:
    reader = opened(redis_server.url)
    agree(fleet, reader)
    kind: Any = ray.remote(_Answering)
    answering = kind.options(num_cpus=0).remote(redis_server.url)
    prompts = fleet.prompts[:8]
    expected = [dict(reader.score(prompt, model=MODEL)) for prompt in prompts]
    assert ray.get(answering.scores.remote(prompts), timeout=60) == expected
    assert any(expected)

    with pytest.raises(RayActorError):
        ray.get(hearing[0].die.options(max_task_retries=0).remote(), timeout=60)
    fleet.serve(10)
    agree(fleet, reader)
    ray.get(answering.close.remote(), timeout=60)
    ray.kill(answering)
    reader.close()
