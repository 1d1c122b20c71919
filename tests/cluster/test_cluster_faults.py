"""Processes that die, or stand still, while a cluster answers; quiet afterwards heals everything."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from kvatlas.actors.directory.ray_yard import actors_of
from kvatlas.cluster import launch
from kvatlas.cluster.client import Client
from kvatlas.cluster.config.actors_config import ScorersConfig, ShardsConfig, SubscribersConfig
from kvatlas.cluster.config.cluster_config import ClusterConfig
from tests.cluster.asker import Asker
from tests.cluster.living_fleet import Fleet, fleet_of, living_process_of, process_of, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.usefixtures("shared_ray"),
    pytest.mark.timeout(300),
]

UP_S = 60.0
"""Time for a process to be up again on a busy machine; not what is measured here."""
HEAL_S = 60.0
"""From the last new process being up until every answer is exact: beyond it, it does not heal. How long it
takes is measured by `make chaos` and benchmarks/bench_cluster_recovery.py."""
HUNG_S = 30.0
"""Longer than any answer takes."""


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with fleet_of(3) as fleet:
        fleet.serve(60)
        yield fleet


@pytest.fixture(scope="module")
def cluster(fleet: Fleet) -> Iterator[Client]:
    """One for all: each test finds it healed, and leaves it so."""
    config = ClusterConfig(
        name="faults",
        discovery=fleet.discovery,
        shards=ShardsConfig(count=4, table_bytes_max=64 << 20),
        subscribers=SubscribersConfig(pods_each=2),
        scorers=ScorersConfig(count=1),
    )
    with launch.start(config) as client:
        yield client
    launch.down("faults")


@pytest.fixture
def client(cluster: Client, fleet: Fleet) -> Client:
    fleet.wait_agreed(cluster)
    return cluster


def building(client: Client) -> int:
    """Number of the layout that is being built; 0: none is."""
    return sum(one.number for one in client.status().layouts if one.state == "building")


def shard_name(client: Client, shard: int) -> str:
    """In Ray, of the layout that serves."""
    return f"faults/shard/{client.status().layouts[0].number}-{shard}-0"


@pytest.mark.parametrize("kind", ["shard", "subscriber/0", "scorer/0", "directory"])
def test_a_process_that_is_killed_comes_back_and_answers_go_on(
    client: Client, fleet: Fleet, kind: str
) -> None:
    name = shard_name(client, 0) if kind == "shard" else f"faults/{kind}"
    with Asker(client, fleet) as asker:
        killed = living_process_of(name)
        os.kill(killed, signal.SIGKILL)
        fleet.serve(10)
        wait_until(lambda: process_of(name) not in (0, killed), UP_S, lambda: name)
        fleet.wait_agreed(client, HEAL_S)
    assert asker.wrong == []
    assert asker.pause_s_max < HUNG_S and asker.answers > 100


def test_a_shard_that_stands_still_is_replaced_and_fenced(client: Client, fleet: Fleet) -> None:
    name = shard_name(client, 1)
    stopped = living_process_of(name)
    with Asker(client, fleet) as asker:
        os.kill(stopped, signal.SIGSTOP)
        fleet.serve(10)
        wait_until(lambda: process_of(name) not in (0, stopped), UP_S, lambda: name)
        fleet.wait_agreed(client, HEAL_S)
    assert asker.wrong == [] and asker.pause_s_max < HUNG_S


def test_a_subscriber_that_stands_still_and_comes_back_changes_nothing_wrongly(
    client: Client, fleet: Fleet
) -> None:
    name = "faults/subscriber/0"
    stopped = living_process_of(name)
    with Asker(client, fleet) as asker:
        os.kill(stopped, signal.SIGSTOP)
        fleet.serve(10)
        wait_until(
            lambda: any(view.state == "DEGRADED" for view in client.pods()), UP_S, lambda: client.status()
        )
        os.kill(stopped, signal.SIGCONT)
        fleet.wait_agreed(client, UP_S)
    assert asker.wrong == [] and asker.pause_s_max < HUNG_S


def test_everything_killed_at_once_comes_back(client: Client, fleet: Fleet) -> None:
    names = actors_of("faults")
    killed = {name: living_process_of(name) for name in names}
    with Asker(client, fleet) as asker:
        for pid in killed.values():
            os.kill(pid, signal.SIGKILL)
        fleet.serve(10)
        wait_until(lambda: all(process_of(name) not in (0, killed[name]) for name in names), UP_S)
        fleet.wait_agreed(client, HEAL_S)
    assert asker.wrong == [] and asker.pause_s_max < HUNG_S


def test_answers_stay_right_while_the_layout_changes(client: Client, fleet: Fleet) -> None:
    with Asker(client, fleet) as asker:
        launch.scale("faults", shards=5)
        began_s = time.monotonic()
        while client.status().layouts[0].n_shards != 5:
            fleet.serve()
            assert time.monotonic() - began_s < UP_S, client.status()
        fleet.wait_agreed(client, HEAL_S)
    assert asker.wrong == [] and asker.partial == 0 and asker.pause_s_max < HUNG_S


def test_a_directory_killed_while_a_layout_is_built_builds_it_again(client: Client, fleet: Fleet) -> None:
    with Asker(client, fleet) as asker:
        launch.scale("faults", shards=3)
        wait_until(lambda: building(client) != 0, UP_S, client.status)
        given_up = building(client)
        killed = living_process_of("faults/directory")
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: process_of("faults/directory") not in (0, killed), UP_S)
        wait_until(lambda: client.status().layouts[0].n_shards == 3, UP_S, lambda: client.status())
        fleet.serve(10)
        fleet.wait_agreed(client, HEAL_S)
    assert asker.wrong == [] and asker.pause_s_max < HUNG_S
    assert client.status().layouts[0].number > given_up, "what was not committed is not continued"
