"""A cluster from its start to its end, on a real Ray."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import ray

from kvatlas.actors.directory.ray_yard import actors_of
from kvatlas.actors.orders import ClusterView, SubscriberAsks, SubscriberOrders, decode, encode
from kvatlas.cluster import launch
from kvatlas.cluster.client import Client
from kvatlas.cluster.config.actors_config import ScorersConfig, ShardsConfig, SubscribersConfig
from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.index.errors import ClusterError, ConfigError, DecodeError, InputError
from kvatlas.ingest.discovery.config import DiscoveryLimits
from tests.cluster.living_fleet import MODEL, Fleet, fleet_of, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.usefixtures("shared_ray"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with fleet_of(4) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def config(fleet: Fleet) -> ClusterConfig:
    return ClusterConfig(
        name="first",
        discovery=msgspec.structs.replace(fleet.discovery, limits=DiscoveryLimits(grace_s=1.0)),
        shards=ShardsConfig(count=2, table_bytes_max=64 << 20),
        subscribers=SubscribersConfig(pods_each=2),
        scorers=ScorersConfig(count=1),
    )


@pytest.fixture(scope="module")
def client(config: ClusterConfig) -> Iterator[Client]:
    with launch.start(config) as client:
        yield client
    launch.down(config.name)


def test_a_cluster_answers_what_its_servers_would_do(client: Client, fleet: Fleet) -> None:
    fleet.serve(60)
    fleet.wait_agreed(client)
    assert {view.pod for view in client.pods()} == {server.pod for server in fleet.servers}


def test_a_scorer_answers_as_a_client_does(client: Client, fleet: Fleet) -> None:
    fleet.wait_agreed(client)
    prompt = fleet.prompts[0]
    answer = ray.get(client.scorer(0).score.remote(prompt, model=MODEL))
    assert dict(answer) == dict(client.score(prompt, model=MODEL)) and dict(answer)


def test_a_client_works_in_another_process(client: Client, fleet: Fleet) -> None:
    fleet.wait_agreed(client)

    @ray.remote
    def score(pickled: bytes, prompt: list[int]) -> dict[str, float]:
        with pickle.loads(pickled) as there:
            there.wait_ready(60)
            return dict(there.score(prompt, model=MODEL))

    prompt = fleet.prompts[0]
    assert ray.get(score.remote(pickle.dumps(client), prompt)) == dict(client.score(prompt, model=MODEL))


def test_starting_it_again_connects_and_another_configuration_is_refused(
    client: Client, config: ClusterConfig, fleet: Fleet
) -> None:
    again = launch.start(config)
    assert again.status().cluster == "first"
    with pytest.raises(ConfigError, match=r"\$\.transport.*'ray'.*'zmq'"):
        launch.start(msgspec.structs.replace(config, transport="ray"))
    assert dict(launch.connect("first").score(fleet.prompts[0], model=MODEL))


def test_a_view_is_waited_for_and_older_readers_are_answered_at_once(client: Client, fleet: Fleet) -> None:
    fleet.wait_agreed(client)
    directory = client.directory()
    view = directory.ask("view", ClusterView, 0, 0.0)
    assert len(view.parts) == 2
    began_s = time.monotonic()
    same = directory.ask("view", ClusterView, view.version, 0.5)
    if same.version == view.version:
        assert same.parts == () and time.monotonic() - began_s >= 0.5
    assert len(directory.ask("view", ClusterView, view.version + (1 << 40), 30.0).parts) == 2
    waiting = directory.handle().view.remote(same.version, 30.0)
    fleet.servers[0].restart()
    fleet.serve(10)
    newer = decode(ray.get(waiting, timeout=60), ClusterView)
    assert newer.version > same.version
    fleet.wait_agreed(client)


def test_what_is_no_struct_is_refused_and_changes_nothing(client: Client) -> None:
    before = client.status()
    for method in ("enlist_shard", "report_shard", "enlist_subscriber", "report_subscriber", "add_pod"):
        with pytest.raises(DecodeError):
            client.directory().call(method, b"\xc1 nothing")
    stranger = SubscriberAsks(name="stranger", node_id="", actor="")
    assert client.directory().ask("enlist_subscriber", SubscriberOrders, encode(stranger)).goes
    assert [one.incarnation for one in client.status().shards] == [one.incarnation for one in before.shards]


def test_nobody_is_found_under_another_name(client: Client) -> None:
    with pytest.raises(ClusterError, match="nobody"):
        launch.connect("nobody")
    with pytest.raises(ClusterError, match="nobody"):
        launch.scale("nobody", shards=2)


def test_numbers_that_cannot_be_are_refused_by_scale(client: Client) -> None:
    with pytest.raises(InputError, match="shards: expected 1 to 1024, got 0"):
        launch.scale("first", shards=0)
    with pytest.raises(InputError, match="off_nodes"):
        launch.scale("first", off_nodes=[node.node_id for node in client.status().nodes])


def test_pods_come_and_go(client: Client, fleet: Fleet) -> None:
    with fleet_of(1, seed=9, prefix="late") as late:
        client.add_pod(late.entries[0].discovered("test"))
        late.serve(5)
        late.wait_agreed(client)
        assert client.remove_pod("late0") and not client.remove_pod("late0")
        wait_until(lambda: "late0" not in {view.pod for view in client.pods()}, 60)
    fleet.wait_agreed(client)


def test_two_clusters_on_one_ray_do_not_see_each_other(client: Client, fleet: Fleet) -> None:
    with fleet_of(1, seed=5, prefix="other") as other:
        config = ClusterConfig(
            name="second",
            discovery=other.discovery,
            shards=ShardsConfig(count=1, table_bytes_max=64 << 20),
        )
        with launch.start(config) as second:
            other.serve(10)
            other.wait_agreed(second)
            fleet.wait_agreed(client)
            assert {view.pod for view in second.pods()} == {"other0"}
            assert all(not second.score(prompt, model=MODEL) for prompt in fleet.sample(10))
        launch.down("second")
        assert actors_of("second") == [] and actors_of("first")
        fleet.wait_agreed(client)


def test_what_is_down_is_gone_and_can_be_started_anew(fleet: Fleet) -> None:
    config = ClusterConfig(
        name="third", discovery=fleet.discovery, shards=ShardsConfig(count=1, table_bytes_max=64 << 20)
    )
    with launch.start(config) as client:
        fleet.wait_agreed(client)
        launch.down("third")
        assert actors_of("third") == []
        assert not [path for path in Path("/dev/shm").iterdir() if f"-{os.getuid()}-third@" in path.name]
        launch.down("third")  # twice is fine
        more = msgspec.structs.replace(config, shards=ShardsConfig(count=2, table_bytes_max=64 << 20))
        with launch.start(more) as anew:
            fleet.wait_agreed(anew)
            fleet.wait_agreed(client)  # of the one before, with other keys: finds the new one
            launch.down("third")
