"""A cluster that shows another one's dumps, and one that a guest writes into."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from typer.testing import CliRunner

from kvatlas.actors.guest.joining import join
from kvatlas.actors.orders import NAMESPACE
from kvatlas.cluster import launch
from kvatlas.cluster.cli import app
from kvatlas.cluster.client import Client
from kvatlas.cluster.standby import following
from kvatlas.index.groups import Group
from kvatlas.index.keys import block_keys
from kvatlas.index.view import FleetPart, WorkerView
from kvatlas.ingest.discovery.config import DiscoveryConfig
from tests.cluster.living_fleet import MODEL, Fleet, wait_until
from tests.cluster.standby.small_cluster import small_cluster
from tests.index.backends.telling import add, held
from tests.models.world import GPU

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.usefixtures("shared_ray"),
    pytest.mark.timeout(300),
]
FIRST, SECOND = "dumped", "warm"


@pytest.fixture(scope="module")
def dumps(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dump of a cluster that is gone."""
    folder = tmp_path_factory.mktemp("dumps")
    with launch.start(small_cluster(FIRST, fleet.discovery)) as client:
        fleet.wait_agreed(client)
        assert CliRunner().invoke(app, ["dump", str(folder / "a"), "--name", FIRST]).exit_code == 0
    launch.down(FIRST)
    return folder


@pytest.fixture
def client() -> Iterator[Client]:
    with launch.start(small_cluster(SECOND, DiscoveryConfig())) as client:
        yield client
    launch.down(SECOND)


def states(client: Client) -> dict[str, str]:
    return {worker.pod: worker.state for worker in client.pods() if worker.groups}


def loads() -> int:
    return following.following(SECOND).counts.get("dumps_loaded", 0)


def matched(client: Client, prompt: list[int]) -> dict[str, int]:
    scores = client.score(prompt, model=MODEL)
    return {match.pod: match.blocks for match in scores.matches}


def test_it_shows_the_newest_dump_until_it_hears_a_worker_itself(
    client: Client, fleet: Fleet, dumps: Path
) -> None:
    following.follow_dumps(SECOND, dumps)
    pods = {server.pod for server in fleet.servers}
    wait_until(lambda: set(states(client)) == pods, 60, lambda: following.following(SECOND))
    assert set(states(client).values()) == {"DEGRADED"}
    assert all("from a dump of" in worker.doubts[0] for worker in client.pods())
    wait_until(lambda: loads() == 1, 60, lambda: following.following(SECOND))
    shown = {n: matched(client, prompt) for n, prompt in enumerate(fleet.prompts)}
    assert any(shown.values())

    os.kill(ray.get(_keeper().ping.remote()), signal.SIGKILL)
    wait_until(lambda: loads() == 2, 90, lambda: following.following(SECOND))
    wait_until(lambda: set(states(client)) == pods, 60, lambda: states(client))
    assert {n: matched(client, prompt) for n, prompt in enumerate(fleet.prompts)} == shown

    for entry in fleet.entries:
        client.add_pod(entry.discovered("test"))
    wait_until(lambda: set(states(client).values()) == {"EXACT"}, 60, lambda: states(client))
    fleet.serve(10)
    fleet.wait_agreed(client)
    following.stop_following(SECOND)
    fleet.wait_agreed(client)


def _keeper() -> Any:
    return ray.get_actor(f"{SECOND}/{following.SESSION}", namespace=NAMESPACE)


def test_a_guest_writes_what_clients_read(client: Client) -> None:
    """Whoever has residency without events: lanes lent by the directory, and a part that names them."""
    prompt = list(range(16 * 200))
    with_index = join(SECOND, "writer")
    keys = block_keys(np.array(prompt, np.uint32), model="m", hash_seed=with_index.hash_seed)
    lane, number = with_index.numbers.lane(), with_index.numbers.worker()
    add(with_index, lane, keys[:150])
    assert held(with_index, keys[:150]) == [{lane: GPU}] * 150
    worker = WorkerView(
        number=number, pod="outside", rank=0, model="m", groups=(Group(lane),), state="PARTIAL"
    )
    with_index.set_part(FleetPart(block_sizes={"m": 16}, workers=(worker,)))
    wait_until(lambda: [w.pod for w in client.pods()] == ["outside"], 60, client.pods)
    assert client.score(prompt, model="m") == {"outside": 150.0}
    assert sum(map(bool, with_index.export())) >= 2, "a record a shard at least"
    with_index.close()
    wait_until(lambda: not client.pods(), 60, client.pods)
