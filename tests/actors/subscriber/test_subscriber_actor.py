"""A subscriber's process in a real cluster, killed: it goes on from its checkpoint and from replays."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import ray

from kvatlas.actors.orders import NAMESPACE
from kvatlas.actors.subscriber.service import ServiceStatistics
from kvatlas.cluster import launch
from kvatlas.cluster.client import Client
from kvatlas.cluster.config.actors_config import ShardsConfig, SubscribersConfig
from kvatlas.cluster.config.cluster_config import ClusterConfig
from tests.cluster.living_fleet import Fleet, fleet_of, living_process_of, process_of, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.usefixtures("shared_ray"),
    pytest.mark.timeout(300),
]

ACTOR = "kept/subscriber/0"
UP_S = 60.0
FEW_BATCHES = 25
"""That a server can replay: by far not all of them."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of checkpoints, which nobody writes but when told."""
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with fleet_of(3) as fleet:
        for server in fleet.servers:
            server.listen(buffer_steps=FEW_BATCHES)
        yield fleet


@pytest.fixture(scope="module")
def client(fleet: Fleet, folder: Path) -> Iterator[Client]:
    config = ClusterConfig(
        name="kept",
        discovery=fleet.discovery,
        shards=ShardsConfig(count=2, table_bytes_max=64 << 20),
        subscribers=SubscribersConfig(checkpoint_folder=str(folder), checkpoint_s=3600.0),
    )
    with launch.start(config) as client:
        fleet.serve(3)
        fleet.wait_agreed(client)
        yield client
    launch.down("kept")


def statistics() -> ServiceStatistics:
    actor = ray.get_actor(ACTOR, namespace=NAMESPACE)
    told: bytes = ray.get(actor.statistics.remote(), timeout=60)
    return msgspec.msgpack.decode(told, type=ServiceStatistics)


def kill() -> None:
    """And wait for the next process."""
    killed = living_process_of(ACTOR)
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: process_of(ACTOR) not in (0, killed), UP_S)


def test_killed_subscriber_goes_on_from_its_checkpoint_and_what_came_since(
    client: Client, fleet: Fleet
) -> None:
    fleet.serve(100)  # more than servers can replay
    fleet.wait_agreed(client)
    assert ray.get(ray.get_actor(ACTOR, namespace=NAMESPACE).save.remote(), timeout=30)
    fleet.serve(5)
    kill()
    fleet.serve(5)
    fleet.wait_agreed(client, UP_S)
    assert statistics().counts["checkpoint_errors"] == 0


def test_killed_subscriber_without_a_checkpoint_says_what_it_cannot_know(
    client: Client, fleet: Fleet, folder: Path
) -> None:
    fleet.serve(100)
    fleet.wait_agreed(client)
    shutil.rmtree(folder / "0")
    kill()
    wait_until(lambda: {view.state for view in client.pods()} == {"PARTIAL"}, UP_S, client.pods)
