"""Registered pods: times to live, renewal, bounds, snapshots."""

from __future__ import annotations

import msgspec
import pytest

from kvatlas.index.errors import DecodeError, InputError
from kvatlas.ingest.discovery.registration.registry import PodRegistry
from tests.ingest.discovery.told_pods import ToldPods, found


class Rig:
    def __init__(self, pods_max: int = 10) -> None:
        self.now_s = 0.0
        self.registry = PodRegistry(pods_max, lambda: self.now_s)
        self.told = ToldPods()
        self.registry.start(self.told)


def test_registered_pods_are_told_and_withdrawn_ones_leave() -> None:
    rig = Rig()
    assert rig.registry.register(found("a"))
    assert not rig.registry.register(found("a"))
    assert set(rig.told.pods) == {"a"}
    assert rig.registry.withdraw("a")
    assert not rig.registry.withdraw("a")
    assert not rig.told.pods


def test_a_registration_ends_that_is_not_renewed() -> None:
    rig = Rig()
    rig.registry.register(found("a"), 10)
    rig.registry.register(found("b"), 10)
    rig.registry.register(found("c"))
    rig.now_s = 9
    rig.registry.register(found("b"), 10)
    rig.now_s = 10
    rig.registry.tick()
    assert set(rig.told.pods) == {"b", "c"}
    rig.now_s = 19
    rig.registry.tick()
    assert set(rig.told.pods) == {"c"}
    assert rig.registry.next_s() is None
    assert rig.registry.statistics().counts == {"registered": 3, "renewed": 1, "expired": 2}


def test_renewals_do_not_pile_up_and_do_not_change_the_version() -> None:
    rig = Rig()
    rig.registry.register(found("a"), 10)
    version = rig.registry.version
    for number in range(1000):
        rig.now_s = number / 1000
        rig.registry.register(found("a"), 10)
    assert rig.registry.version == version
    assert len(rig.registry._ends) < 100  # pyright: ignore[reportPrivateUsage]
    rig.registry.register(found("a"), 20)
    assert rig.registry.version > version


def test_a_storm_of_registrations_is_bounded_and_renewals_still_pass() -> None:
    rig = Rig(pods_max=3)
    for name in "abc":
        rig.registry.register(found(name))
    for number in range(100):
        with pytest.raises(InputError, match="at most 3 registered"):
            rig.registry.register(found(f"p{number}"))
    assert not rig.registry.register(found("a"))
    assert rig.registry.statistics().counts["registrations_refused"] == 100


@pytest.mark.parametrize("ttl_s", [0, -1, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(ttl_s: float) -> None:
    rig = Rig()
    with pytest.raises(InputError, match="ttl_s: expected"):
        rig.registry.register(found("a"), ttl_s)
    assert not rig.told.pods


def test_a_snapshot_brings_all_back_with_their_whole_time() -> None:
    rig = Rig()
    rig.registry.register(found("a"), 10)
    rig.registry.register(found("b"))
    rig.now_s = 9
    new = Rig()
    new.registry.register(found("b", "tcp://known:1"))
    assert new.registry.restore(rig.registry.snapshot()) == 1
    assert new.told.pods["b"].sources[0].endpoint == "tcp://known:1"
    assert new.told.pods["a"].sources == found("a").sources
    assert {one.pod.pod: one.left_s for one in new.registry.registered()} == {"a": 10, "b": None}


@pytest.mark.parametrize(
    "snapshot",
    [b"", b"\xc1", msgspec.msgpack.encode([1]), msgspec.msgpack.encode({"version": 2, "kept": []})],
)
def test_bytes_that_are_no_snapshot_are_refused(snapshot: bytes) -> None:
    with pytest.raises(DecodeError, match="registrations: expected"):
        Rig().registry.restore(snapshot)


def test_what_a_snapshot_holds_that_cannot_be_followed_is_counted() -> None:
    rig = Rig()
    kept = [{"pod": b"broken", "ttl_s": None}, {"pod": b"\x80", "ttl_s": None}]
    assert rig.registry.restore(msgspec.msgpack.encode({"version": 1, "kept": kept})) == 0
    assert rig.registry.statistics().counts["not_restored"] == 2
