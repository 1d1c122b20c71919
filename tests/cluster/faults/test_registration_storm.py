"""Ten thousand pods at once, names that nobody should choose, and pods that are named twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from kvatlas.actors.directory.ray_yard import actors_of
from kvatlas.cluster import launch
from kvatlas.cluster.client import Client
from kvatlas.cluster.config.actors_config import DirectoryConfig, ShardsConfig, SubscribersConfig
from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.index.errors import InputError
from kvatlas.ingest.discovery.config import (
    DiscoveryConfig,
    DiscoveryLimits,
    FileWatchConfig,
    StaticWatchConfig,
)
from kvatlas.ingest.discovery.entries import PodEntry
from kvatlas.ingest.discovery.pods import DiscoveredPod
from kvatlas.ingest.sockets.source_config import SourceConfig
from kvatlas.ingest.sockets.subscriber_config import SubscriberConfig
from tests.cluster.asker import Asker
from tests.cluster.living_fleet import Fleet, fleet_of, living_process_of, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.usefixtures("shared_ray"),
    pytest.mark.timeout(400),
]

STORM = 10_000
_MORE_BYTES_MAX = 600 << 20
"""That a process may take for the storm; unbounded growth would be gigabytes."""


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with fleet_of(2) as fleet:
        fleet.serve(40)
        yield fleet


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that pods are found in, without any at first."""
    path = tmp_path_factory.mktemp("storm") / "pods.json"
    path.write_text("[]")
    return path


@pytest.fixture(scope="module")
def client(fleet: Fleet, listed: Path) -> Iterator[Client]:
    config = ClusterConfig(
        name="storm",
        discovery=DiscoveryConfig(
            watches=(StaticWatchConfig(pods=fleet.entries), FileWatchConfig(path=str(listed))),
            limits=DiscoveryLimits(grace_s=0.5),
        ),
        shards=ShardsConfig(count=2, table_bytes_max=64 << 20),
        directory=DirectoryConfig(shard_silent_s=60.0),  # a busy machine is long at taking thousands of pods
        subscribers=SubscribersConfig(pods_each=4096, sockets=SubscriberConfig(sources_max=2048)),
    )
    with launch.start(config) as client:
        fleet.wait_agreed(client)
        yield client
        launch.down("storm")


@pytest.mark.parametrize("name", ["", " ", "a\nb", "\0", "p" * 100_000, "\u202egnp"])
def test_a_name_that_cannot_be_shown_is_refused(client: Client, name: str) -> None:
    with pytest.raises(InputError, match="pod: expected 1 to 253 printable characters"):
        client.add_pod(named(name))
    assert followed(client) == {"pod0", "pod1"}


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "kv@a@b", "storm/directory", "'; --", "%s{0}", "\N{GRINNING FACE}", "p" * 253],
)
def test_any_other_name_is_a_name(client: Client, fleet: Fleet, name: str) -> None:
    client.add_pod(named(name))
    wait_until(lambda: name in followed(client), 60, lambda: followed(client))
    fleet.serve()
    fleet.wait_agreed(client)
    assert client.remove_pod(name)
    wait_until(lambda: name not in followed(client), 60, lambda: followed(client))


def test_a_pod_that_is_named_twice_is_followed_where_it_was(client: Client, fleet: Fleet) -> None:
    again = PodEntry(pod=fleet.servers[0].pod, endpoint="tcp://127.0.0.1:9", model=fleet.model)
    client.add_pod(again.discovered("test"))
    client.remove_pod(again.pod)
    fleet.serve(5)
    fleet.wait_agreed(client, 90)


def test_ten_thousand_pods_in_a_list_are_bounded_and_answers_go_on(
    client: Client, fleet: Fleet, listed: Path
) -> None:
    """The last here, for where it fails the others would, too."""
    before = resident(client)
    with Asker(client, fleet) as asker:
        listed.write_text(json.dumps([unreachable(number) for number in range(STORM)]))
        wait_until(lambda: len(followed(client)) == STORM + 2, 120, lambda: len(followed(client)))
        wait_until(lambda: len(subscribers(client)) == 3, 60, lambda: subscribers(client))
        wait_until(lambda: all(one.settled for one in client.status().subscribers), 120, client.status)
        fleet.serve(10)
        fleet.wait_agreed(client)
        assert all(resident(client)[name] - size < _MORE_BYTES_MAX for name, size in before.items())
        assert any(one.counts.get("refused_sources") for one in client.status().subscribers)
        listed.write_text("[]")
        wait_until(lambda: len(followed(client)) == 2, 120, lambda: len(followed(client)))
        fleet.wait_agreed(client)
    assert asker.wrong == [] and asker.pause_s_max < 30.0 and asker.answers


def named(name: str) -> DiscoveredPod:
    """A pod where nobody listens."""
    source = SourceConfig(endpoint="tcp://127.0.0.1:9", pod="x", rank=0)
    source = msgspec.structs.replace(source, pod=name or None)
    return DiscoveredPod(pod=name, sources=(source,))


def unreachable(number: int) -> dict[str, object]:
    """A pod where nobody listens."""
    address = f"127.1.{number >> 8}.{number & 255}"
    return {"pod": f"storm{number}", "model": "storm/model", "endpoint": f"tcp://{address}:9"}


def followed(client: Client) -> set[str]:
    return {pod.pod for pod in client.status().pods if pod.state == "following"}


def subscribers(client: Client) -> set[str]:
    return {one.name for one in client.status().subscribers}


def resident(client: Client) -> dict[str, int]:
    """Bytes in memory of the directory and the subscribers, by name."""
    found = {}
    for name in actors_of(client.cluster):
        if "/shard/" not in name:
            pages = int(Path(f"/proc/{living_process_of(name)}/statm").read_text().split()[1])
            found[name] = pages * 4096
    return found
