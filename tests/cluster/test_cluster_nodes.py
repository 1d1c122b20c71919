"""Clusters on several nodes: reads across them, nodes that leave, and an owner that dies."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import ray
from ray.cluster_utils import Cluster

from kvatlas.actors.directory.ray_yard import actors_of, nodes_alive
from kvatlas.cluster import launch
from kvatlas.cluster.client import Client
from kvatlas.cluster.config.actors_config import ShardsConfig
from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.index.errors import ClusterError
from tests.cluster.living_fleet import MODEL, Fleet, fleet_of, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(300)]

UP_S = 90.0


@pytest.fixture(scope="module")
def nodes(no_ray: None) -> Iterator[Cluster]:
    """Two nodes, this process on the first; the last of these tests may lose the other."""
    head = {
        "num_cpus": 4,
        "include_dashboard": False,
        "_system_config": {"health_check_period_ms": 500},  # else a node is dead 15 s after its death
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=4, resources={"second": 1})
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with fleet_of(2) as fleet:
        fleet.serve(40)
        yield fleet


def node_ids() -> tuple[str, str]:
    """Of the node of this process, and of the other one."""
    here = ray.get_runtime_context().get_node_id()
    (there,) = set(nodes_alive()) - {here}
    return here, there


def shard_nodes(client: Client) -> set[str]:
    """Nodes that the served layout lies on; none while the directory itself is moving."""
    try:
        status = client.status()
    except ClusterError:
        return set()
    return {shard.node_id for shard in status.shards if shard.layout == status.layouts[0].number}


def test_shards_on_another_node_are_read_by_messages(nodes: Cluster, fleet: Fleet) -> None:
    _, there = node_ids()
    config = ClusterConfig(
        name="nodes",
        discovery=fleet.discovery,
        shards=ShardsConfig(count=2, nodes=(there,), table_bytes_max=64 << 20),
    )
    with launch.start(config) as client:
        fleet.wait_agreed(client)
        assert shard_nodes(client) == {there}
        assert {one.how for one in client.reading().shards} == {"asked"}
    launch.down("nodes")


def test_replicas_on_each_node_follow_the_nodes(nodes: Cluster, fleet: Fleet) -> None:
    config = ClusterConfig(
        name="nodes",
        discovery=fleet.discovery,
        shards=ShardsConfig(count=2, replicas_per_node=1, table_bytes_max=64 << 20),
    )
    with launch.start(config) as client:
        wait_until(lambda: client.status().layouts[0].n_whole == 4, UP_S, client.status)
        fleet.wait_agreed(client)
        third = nodes.add_node(num_cpus=4)
        wait_until(lambda: client.status().layouts[0].n_whole == 6, UP_S, client.status)
        nodes.remove_node(third)
        wait_until(lambda: client.status().layouts[0].n_slots == 4, UP_S, client.status)
        fleet.wait_agreed(client)
    launch.down("nodes")


def test_a_draining_node_is_left_and_one_that_dies_is_made_up_for(nodes: Cluster, fleet: Fleet) -> None:
    here, there = node_ids()
    config = ClusterConfig(
        name="nodes", discovery=fleet.discovery, shards=ShardsConfig(count=4, table_bytes_max=64 << 20)
    )
    with launch.start(config) as client:
        fleet.wait_agreed(client)
        launch.scale("nodes", off_nodes=[here])
        wait_until(lambda: shard_nodes(client) == {there}, UP_S, client.status)
        fleet.wait_agreed(client)
        launch.scale("nodes", off_nodes=[])
        wait_until(lambda: client.status().layouts[0].number == 3, UP_S, client.status)
        nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)
        wait_until(lambda: shard_nodes(client) == {here}, UP_S, lambda: shard_nodes(client))
        fleet.serve(5)
        fleet.wait_agreed(client)
    launch.down("nodes")


OWNER = """
import sys, ray
from kvatlas.actors.directory.ray_yard import nodes_alive
from kvatlas.cluster import launch
from kvatlas.cluster.config.actors_config import ScorersConfig, ShardsConfig, TokenizersConfig
from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.index.errors import ClusterError
from tests.cluster.living_fleet import fleet_of
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
with fleet_of(1) as fleet:
    config = ClusterConfig(name="owned", lifetime="owned", discovery=fleet.discovery,
        shards=ShardsConfig(count=2, table_bytes_max=64 << 20), scorers=ScorersConfig(count=1),
        tokenizers=TokenizersConfig(count_min=1, count_max=1))
    client = launch.start(config)
    fleet.serve(5)
    fleet.wait_agreed(client)
    print("up", flush=True)
    sys.stdin.read()
"""


def test_an_owned_cluster_ends_with_its_driver(nodes: Cluster) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(nodes.address)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdin is not None and owner.stdout is not None
    with owner, owner.stdin, owner.stdout:
        assert "up\n" in iter(owner.stdout.readline, "")  # Ray has something to say before
        kinds = sorted(name.split("/")[1] for name in actors_of("owned"))
        assert kinds == ["directory", "scorer", "shard", "shard", "subscriber", "tokenizer"]
        assert dict(launch.connect("owned").score([1] * 64, model=MODEL)) == {}
        os.kill(owner.pid, signal.SIGKILL)
        wait_until(lambda: actors_of("owned") == [], 60, lambda: actors_of("owned"))
