"""Processes that choose, as the directory knows them, and pods as it shows them to those."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from kvatlas.actors.directory.routers import ROUTERS_MAX
from kvatlas.actors.orders import ClusterView, RouterReport, decode, encode
from kvatlas.index.choosing.serving import Serving
from kvatlas.ingest.config import PodConfig
from kvatlas.ingest.discovery.pods import DiscoveredPod
from tests.actors.directory.directory_rig import NODES, DirectoryRig, pod

MUTE = DiscoveredPod(
    pod="mute", settings=PodConfig(model="m"), serving=Serving(url="http://h:1"), labels={"zone": "z"}
)


@pytest.fixture
def rig(tmp_path: Path) -> DirectoryRig:
    return DirectoryRig(tmp_path)


def report(rig: DirectoryRig, number: int, cluster_id: str = "one", endpoint: str = "tcp://h:1") -> bool:
    told = RouterReport(number=number, cluster_id=cluster_id, endpoint=endpoint)
    return not rig.service.report_router(decode(encode(told), RouterReport)).goes


def listed(rig: DirectoryRig) -> list[int]:
    return [at.number for at in rig.service.view().routers]


def serving(rig: DirectoryRig, since: int = 0) -> dict[str, Serving] | None:
    pods = decode(encode(rig.service.view(since)), ClusterView).pods
    return None if pods is None else {pod.pod: pod.serving for pod in pods}


def test_routers_are_listed_while_they_report(rig: DirectoryRig) -> None:
    version = rig.service.version
    assert report(rig, 5) and report(rig, 3)
    assert listed(rig) == [3, 5]
    assert rig.service.version > version
    version = rig.service.version
    assert report(rig, 5)
    assert rig.service.version == version, "nothing is new"
    rig.wait(2.0)
    report(rig, 3)
    rig.wait(2.0)
    assert listed(rig) == [3]
    assert rig.service.routers.counts == {"routers_joined": 2, "routers_silent": 1}


def test_a_router_that_publishes_nowhere_is_known_and_not_listed(rig: DirectoryRig) -> None:
    assert report(rig, 5, endpoint="")
    assert listed(rig) == []
    assert len(rig.service.routers.members) == 1
    assert report(rig, 5, endpoint="tcp://h:9")
    assert listed(rig) == [5]


def test_a_router_of_another_start_of_the_cluster_is_told_so(rig: DirectoryRig) -> None:
    assert not report(rig, 5, cluster_id="other")
    rig.service.is_going = True
    assert not report(rig, 6)
    assert listed(rig) == []


@pytest.mark.slow
def test_more_routers_than_there_may_be_are_refused(rig: DirectoryRig) -> None:
    for number in range(1, ROUTERS_MAX + 3):
        assert report(rig, number) == (number <= ROUTERS_MAX)
    assert len(listed(rig)) == ROUTERS_MAX


def test_a_directory_that_was_lost_hears_of_routers_again(rig: DirectoryRig) -> None:
    report(rig, 5)
    rig.lose_directory()
    assert listed(rig) == []
    report(rig, 5)
    assert listed(rig) == [5]


def test_readers_are_told_how_pods_serve_and_only_once(rig: DirectoryRig) -> None:
    rig.follow("a")
    told = serving(rig)
    assert told is not None and set(told) == {"a"}
    version = rig.service.version
    assert serving(rig, version) is None
    report(rig, 5)
    assert serving(rig, version) is None
    draining = pod("a").draining()
    rig.service.set_pods({"a": draining})
    told = serving(rig, version)
    assert told is not None and told["a"].is_draining
    assert serving(rig, rig.service.version) is None
    rig.service.set_pods({"a": msgspec.structs.replace(draining, found_by="another watch")})
    assert serving(rig, rig.service.version) is None


def test_a_pod_that_only_serves_is_shown_and_given_to_no_subscriber(rig: DirectoryRig) -> None:
    rig.service.set_pods({"mute": MUTE, "a": pod("a")})
    (shown,) = [one for one in rig.service.view().pods or () if one.pod == "mute"]
    assert (shown.model, shown.serving.url, shown.labels) == ("m", "http://h:1", {"zone": "z"})
    assert set(rig.service.assignments.subscriber_of) == {"a"}
    rig.service.set_pods({"mute": MUTE})
    assert rig.service.orders == {}


def test_a_pod_that_only_serves_outlives_the_directory(rig: DirectoryRig) -> None:
    rig.service.set_pods({"mute": MUTE})
    version = rig.service.version
    rig.lose_directory()
    rig.service.tick(NODES)
    told = serving(rig, version)
    assert told is not None and told["mute"].url == "http://h:1"


def test_how_a_pod_serves_changes_no_subscribers_orders(rig: DirectoryRig) -> None:
    rig.follow("a", "b")
    orders = dict(rig.service.orders)
    rig.service.set_pods({"a": pod("a").draining(), "b": pod("b")})
    assert rig.service.orders == orders
