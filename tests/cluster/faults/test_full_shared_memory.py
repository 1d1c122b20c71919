"""Shards whose shared memory is full, from the start or later."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvatlas.actors.directory.ray_yard import actors_of
from kvatlas.cluster import launch
from kvatlas.cluster.client import Client
from kvatlas.cluster.config.actors_config import ShardsConfig
from kvatlas.cluster.config.cluster_config import ClusterConfig
from tests.cluster.asker import Asker
from tests.cluster.living_fleet import Fleet, fleet_of, living_process_of, wait_until

_PROMPTS_MAX = 500

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.usefixtures("shared_ray"),
    pytest.mark.timeout(300),
]


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with fleet_of(2, blocks=1 << 18) as fleet:
        fleet.serve(20)
        yield fleet


@contextmanager
def small_memory(folder: Path, size: str) -> Iterator[Path]:
    """A file system in memory with little room. Skips the test where none may be mounted."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small tmpfs cannot be mounted here: {error}")
    try:
        yield folder
    finally:
        # Lazily: a process that is just ending may hold a table.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def config(fleet: Fleet, folder: Path) -> ClusterConfig:
    return ClusterConfig(
        name="full",
        discovery=fleet.discovery,
        shards=ShardsConfig(count=2, table_bytes_max=64 << 20, shared_memory_folder=str(folder)),
    )


def test_without_room_for_a_table_the_shard_lies_in_private_memory_and_is_asked(
    fleet: Fleet, tmp_path: Path
) -> None:
    with small_memory(tmp_path, "64k") as folder, launch.start(config(fleet, folder)) as client:
        fleet.wait_agreed(client)
        assert {shard.how for shard in client.reading().shards} == {"asked"}
        assert list(folder.iterdir()) == []
        launch.down("full")


def test_a_table_that_finds_no_room_to_grow_loses_blocks_and_nothing_else(
    fleet: Fleet, tmp_path: Path
) -> None:
    with small_memory(tmp_path, "16m") as folder, launch.start(config(fleet, folder)) as client:
        fleet.wait_agreed(client)
        assert {shard.how for shard in client.reading().shards} == {"attached"}
        fill(folder)
        processes = {name: living_process_of(name) for name in actors_of("full")}
        with Asker(client, fleet) as asker:
            wait_until(lambda: has_dropped(client, fleet), 60, client.status)
        assert asker.wrong == [] and asker.answers
        assert {name: living_process_of(name) for name in actors_of("full")} == processes
        launch.down("full")
        wait_until(lambda: [path.name for path in folder.iterdir()] == ["filling"], 60)


def has_dropped(client: Client, fleet: Fleet) -> bool:
    """Whether a shard has said so; serves more until it does."""
    if len(fleet.prompts) < _PROMPTS_MAX:
        fleet.serve(20)
    return any(shard.counts["dropped_adds"] for shard in client.status().shards)


def fill(folder: Path) -> None:
    """Take all the room that is left."""
    with (folder / "filling").open("wb", buffering=0) as file:
        try:
            while file.write(b"\1" * 4096):
                pass
        except OSError:
            return
