"""What processes leave behind when they die, and a directory that stands still for long."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvatlas.actors.directory.ray_yard import actors_of
from kvatlas.cluster import launch
from kvatlas.cluster.client import Client
from kvatlas.cluster.config.actors_config import ReadingConfig, ShardsConfig
from kvatlas.cluster.config.cluster_config import ClusterConfig
from tests.cluster.asker import Asker
from tests.cluster.living_fleet import Fleet, fleet_of, living_process_of, process_of, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.usefixtures("shared_ray"),
    pytest.mark.timeout(300),
]

UP_S = 90.0


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with fleet_of(2) as fleet:
        fleet.serve(40)
        yield fleet


@pytest.fixture(scope="module")
def client(fleet: Fleet) -> Iterator[Client]:
    config = ClusterConfig(
        name="lost",
        discovery=fleet.discovery,
        shards=ShardsConfig(count=2, table_bytes_max=64 << 20),
        reading=ReadingConfig(view_s_max=3.0),
    )
    with launch.start(config) as client:
        fleet.wait_agreed(client)
        yield client
        launch.down("lost")


def test_tables_of_dead_shards_are_removed_by_those_that_follow(
    client: Client, fleet: Fleet, tmp_path: Path
) -> None:
    left = control_files()
    assert len(left) == 2
    shards = {name: living_process_of(name) for name in actors_of("lost") if "/shard/" in name}
    for pid in shards.values():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: all(process_of(name) not in (0, pid) for name, pid in shards.items()), UP_S)
    fleet.wait_agreed(client)
    assert len(control_files()) == 2 and not control_files() & left


def test_while_the_directory_stands_still_answers_are_distrusted_and_go_on(
    client: Client, fleet: Fleet
) -> None:
    pid = living_process_of("lost/directory")
    with Asker(client, fleet) as asker:
        os.kill(pid, signal.SIGSTOP)
        try:
            wait_until(lambda: {view.state for view in client.pods()} == {"DEGRADED"}, 60, client.pods)
            assert dict(client.score(fleet.prompts[0], model=fleet.model))
        finally:
            os.kill(pid, signal.SIGCONT)
        fleet.serve(5)
        fleet.wait_agreed(client)
    assert asker.wrong == [] and asker.partial == 0
    assert living_process_of("lost/directory") == pid


def control_files() -> set[str]:
    """Of the cluster's tables; generations have a number behind theirs."""
    names = {path.name for path in Path("/dev/shm").glob(f"kvatlas-{os.getuid()}-lost@*")}
    return {name for name in names if "." not in name}
