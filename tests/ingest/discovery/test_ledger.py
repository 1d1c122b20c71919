"""The ledger: merging, grace, damping, endpoints, bounds."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from kvatlas.ingest.config import PodConfig
from kvatlas.ingest.discovery.config import DiscoveryLimits
from kvatlas.ingest.discovery.ledger import PodLedger
from tests.ingest.discovery.told_pods import found


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Rig:
    """A ledger whose clock stands until it is moved."""

    def __init__(self, watches: int = 1, **limits: Any) -> None:
        self.clock = Clock()
        self.ledger = PodLedger(DiscoveryLimits(**limits), watches, self.clock)

    def pass_s(self, seconds: float) -> None:
        """Let time pass, with every timer at its time."""
        end_s = self.clock.now_s + seconds
        while (next_s := self.ledger.next_s()) is not None and next_s <= end_s:
            self.clock.now_s = max(next_s, self.clock.now_s)
            self.ledger.tick()
        self.clock.now_s = end_s

    @property
    def following(self) -> dict[str, str]:
        return {pod_id: pod.sources[0].endpoint for pod_id, pod in self.ledger.following.items()}

    def state(self, pod_id: str) -> str:
        return next((one.state for one in self.ledger.states() if one.pod == pod_id), "")


def test_a_pod_that_left_is_cleared_after_its_grace() -> None:
    rig = Rig(grace_s=30)
    rig.ledger.change(0, [found("a")])
    rig.ledger.change(0, [], ["a"])
    assert rig.state("a") == "leaving"
    rig.pass_s(29.9)
    assert "a" in rig.following
    rig.pass_s(0.2)
    assert not rig.following
    assert rig.ledger.counts == {"admitted": 1, "left": 1, "cleared": 1}


def test_a_pod_that_comes_back_as_it_was_within_its_grace_is_not_followed_anew() -> None:
    rig = Rig(grace_s=30)
    rig.ledger.change(0, [found("a")])
    for _ in range(20):
        rig.ledger.change(0, [], ["a"])
        rig.pass_s(29)
        rig.ledger.change(0, [found("a")])
        rig.pass_s(29)
    assert rig.ledger.counts == {"admitted": 1, "left": 20, "returned": 20}
    assert rig.state("a") == "following"


def test_a_pod_that_has_left_is_followed_through_its_grace_but_sent_no_requests() -> None:
    rig = Rig(grace_s=30)
    rig.ledger.change(0, [found("a")])
    rig.ledger.change(0, [], ["a"])
    assert rig.ledger.following["a"].serving.is_draining
    version = rig.ledger.version
    rig.ledger.change(0, [found("a")])
    assert rig.ledger.following["a"] == found("a")
    assert rig.ledger.version > version


def test_a_pod_that_moves_is_followed_at_its_new_place_at_once() -> None:
    rig = Rig()
    rig.ledger.replace(0, [found("a", "tcp://h:1")])
    rig.ledger.replace(0, [found("a", "tcp://h:2")])
    assert rig.following == {"a": "tcp://h:2"}
    assert rig.ledger.counts["moved"] == 1
    rig.ledger.change(0, [found("b", "tcp://h:1")])
    assert rig.following == {"a": "tcp://h:2", "b": "tcp://h:1"}


def test_labels_change_what_is_shown_and_nothing_else() -> None:
    rig = Rig(flap_admissions=1)
    for number in range(5):
        rig.ledger.replace(0, [found("a", labels={"n": str(number)})])
    assert rig.ledger.following["a"].labels == {"n": "4"}
    assert rig.ledger.counts["admitted"] == 1


def test_settings_that_change_have_the_pod_followed_anew() -> None:
    rig = Rig()
    rig.ledger.replace(0, [found("a")])
    rig.ledger.replace(0, [msgspec.structs.replace(found("a"), settings=PodConfig(gpu_blocks=7))])
    assert rig.ledger.following["a"].settings.gpu_blocks == 7
    assert rig.ledger.counts["admitted"] == 2


def test_of_two_watches_the_first_counts_and_the_second_stands_in() -> None:
    rig = Rig(watches=2)
    rig.ledger.replace(1, [found("a", "tcp://second:1")])
    rig.ledger.replace(0, [found("a", "tcp://first:1")])
    assert rig.following == {"a": "tcp://first:1"}
    assert rig.ledger.duplicates() == 1
    rig.ledger.replace(0, [])
    assert rig.following == {"a": "tcp://second:1"}
    assert rig.ledger.duplicates() == 0


def test_a_pod_that_another_watch_still_names_does_not_leave() -> None:
    rig = Rig(watches=2, grace_s=1)
    rig.ledger.replace(0, [found("a")])
    rig.ledger.replace(1, [found("a")])
    rig.ledger.replace(0, [])
    rig.pass_s(100)
    assert "a" in rig.following
    assert rig.ledger.counts == {"admitted": 1}


def test_an_id_twice_in_one_list_counts_once_and_the_first() -> None:
    rig = Rig()
    rig.ledger.replace(0, [found("a", "tcp://h:1"), found("a", "tcp://h:2"), found("b")])
    assert rig.following == {"a": "tcp://h:1", "b": "tcp://b.example:5557"}
    assert rig.ledger.counts["repeated"] == 1


def test_a_flapping_pod_is_held_longer_each_time_and_cleared_in_time() -> None:
    rig = Rig(grace_s=1, flap_admissions=3, flap_window_s=600, hold_s_min=10, hold_s_max=35)
    for _ in range(3):
        rig.ledger.change(0, [found("a")])
        assert rig.state("a") == "following"
        rig.ledger.change(0, [], ["a"])
        rig.pass_s(2)
        assert not rig.following
    for hold_s in (10, 20, 35, 35):
        rig.ledger.change(0, [found("a")])
        assert rig.state("a") == "held"
        rig.pass_s(hold_s - 0.1)
        assert not rig.following
        rig.pass_s(0.2)
        assert "a" in rig.following
        rig.ledger.change(0, [], ["a"])
        rig.pass_s(2)
        assert not rig.following
    assert rig.ledger.counts["held"] == 4


def test_a_held_pod_that_leaves_again_waits_anew() -> None:
    rig = Rig(grace_s=0, flap_admissions=1, hold_s_min=10)
    rig.ledger.change(0, [found("a")])
    rig.ledger.change(0, [], ["a"])
    rig.ledger.change(0, [found("a")])
    rig.pass_s(9)
    rig.ledger.change(0, [], ["a"])
    rig.ledger.change(0, [found("a")])
    rig.pass_s(19)
    assert rig.state("a") == "held"
    rig.pass_s(2)
    assert rig.state("a") == "following"


def test_a_pod_that_moves_to_and_fro_is_not_followed_where_it_is_not() -> None:
    rig = Rig(flap_admissions=2, hold_s_min=10)
    for number in range(4):
        rig.ledger.change(0, [found("a", f"tcp://h:{1 + number % 2}")])
    assert rig.following == {}
    assert rig.state("a") == "held"
    rig.pass_s(100)
    assert rig.following == {"a": "tcp://h:2"}


def test_a_quiet_window_makes_a_pod_as_good_as_new() -> None:
    rig = Rig(grace_s=0, flap_admissions=2, flap_window_s=100, hold_s_min=10, hold_s_max=80)
    for _ in range(6):
        rig.ledger.change(0, [found("a")])
        rig.ledger.change(0, [], ["a"])
    rig.pass_s(101)
    rig.ledger.change(0, [found("a")])
    assert rig.state("a") == "following"
    rig.ledger.change(0, [], ["a"])
    rig.pass_s(300)
    assert rig.ledger.next_s() is None
    assert not rig.ledger._entries  # pyright: ignore[reportPrivateUsage]


def test_an_address_that_is_used_again_ends_the_grace_of_the_pod_that_left() -> None:
    rig = Rig(grace_s=30)
    rig.ledger.change(0, [found("a", "tcp://10.0.0.1:5557")])
    rig.ledger.change(0, [], ["a"])
    rig.ledger.change(0, [found("b", "tcp://10.0.0.1:5557")])
    assert rig.following == {"b": "tcp://10.0.0.1:5557"}
    assert rig.ledger.counts["reused_endpoints"] == 1


def test_an_endpoint_belongs_to_the_pod_that_had_it_first_until_it_leaves() -> None:
    rig = Rig(grace_s=30)
    rig.ledger.change(0, [found("a", "tcp://h:1"), found("b", "tcp://h:1"), found("c", "tcp://h:1")])
    assert rig.following == {"a": "tcp://h:1"}
    assert rig.state("b") == rig.state("c") == "refused"
    assert "the endpoint of 'a'" in rig.ledger.said["refused"]
    rig.ledger.change(0, [], ["a"])
    assert rig.following == {"b": "tcp://h:1"}
    rig.ledger.change(0, [], ["b", "c"])
    rig.pass_s(31)
    assert not rig.following


def test_two_pods_that_swap_their_endpoints_in_one_list_end_up_right() -> None:
    rig = Rig()
    rig.ledger.replace(0, [found("a", "tcp://h:1"), found("b", "tcp://h:2")])
    rig.ledger.replace(0, [found("a", "tcp://h:2"), found("b", "tcp://h:1")])
    rig.pass_s(1)
    assert rig.following == {"a": "tcp://h:2", "b": "tcp://h:1"}


@pytest.mark.parametrize(
    "pod",
    [
        found("x" * 254, "tcp://h:9"),
        found("", "tcp://h:9"),
        found("a\nb", "tcp://h:9"),
        found("a\x00", "tcp://h:9"),
        found("\u202egnp", "tcp://h:9"),
        found(" a", "tcp://h:9"),
        found("a", "tcp://h:0"),
        found("a", "tcp://h:65536"),
        found("a", "tcp://*:5557"),
        found("a", "inproc://x"),
        found("a", "tcp://h:5557\r\n"),
        found("a", "tcp://" + "h" * 600 + ":1"),
        found("a", labels={str(number): "" for number in range(65)}),
        found("a", labels={"k": "v" * 1025}),
        msgspec.structs.replace(found("a"), sources=()),
        msgspec.structs.replace(found("a"), sources=found("a").sources * 2),
        msgspec.structs.replace(found("a"), url="ftp://h"),
        msgspec.structs.replace(found("a"), url="http://user:word@h/"),
        msgspec.structs.replace(found("a"), block_size_tokens=0),
        msgspec.structs.replace(found("a"), settings=PodConfig(gpu_blocks=-1)),
        msgspec.structs.replace(found("a"), settings=PodConfig(stores=("s\n",))),
    ],
)
def test_a_pod_that_nobody_could_follow_is_counted_and_the_others_stay(pod: Any) -> None:
    rig = Rig()
    rig.ledger.replace(0, [found("good"), pod])
    assert set(rig.following) == {"good"}
    assert rig.ledger.counts["bad_pods"] == 1
    assert len(rig.ledger.said["bad_pods"]) <= 300


def test_a_pod_that_becomes_bad_leaves() -> None:
    rig = Rig(grace_s=5)
    rig.ledger.change(0, [found("a")])
    rig.ledger.change(0, [found("a", "tcp://h:0")])
    assert rig.state("a") == "leaving"


def test_pods_beyond_the_bound_wait_for_room() -> None:
    rig = Rig(watches=2, pods_max=3, grace_s=5)
    rig.ledger.replace(0, [found(name) for name in "abcd"])
    assert set(rig.following) == set("abc")
    assert rig.ledger.counts["beyond_pods_max"] == 1
    rig.ledger.replace(1, [found("e"), found("f")])
    assert rig.state("e") == rig.state("f") == "refused"
    rig.ledger.change(0, [], ["a", "b"])
    rig.pass_s(6)
    assert set(rig.following) == set("cef")


def test_a_storm_of_names_that_come_and_go_leaves_nothing_behind() -> None:
    rig = Rig(grace_s=0, pods_max=50)
    for number in range(2000):
        rig.ledger.change(0, [found(f"p{number}")])
        rig.ledger.change(0, [], [f"p{number}"])
    assert len(rig.ledger._entries) <= 51  # pyright: ignore[reportPrivateUsage]
    assert len(rig.ledger._timers) <= 4 * 51 + 65  # pyright: ignore[reportPrivateUsage]
    assert not rig.following


def test_timers_that_are_not_meant_any_more_do_not_pile_up() -> None:
    rig = Rig(grace_s=1000)
    for _ in range(2000):
        rig.ledger.change(0, [found("a")])
        rig.ledger.change(0, [], ["a"])
        rig.clock.now_s += 0.001
    assert len(rig.ledger._timers) < 100  # pyright: ignore[reportPrivateUsage]


@pytest.mark.slow
def test_ten_thousand_pods_in_a_list_are_taken_and_taken_again() -> None:
    rig = Rig()
    pods = [
        found(f"p{number}", f"tcp://10.{number // 256}.{number % 256}.1:5557") for number in range(10_000)
    ]
    rig.ledger.replace(0, pods)
    assert len(rig.following) == 10_000
    version = rig.ledger.version
    rig.ledger.replace(0, list(pods))
    assert rig.ledger.version == version
    rig.ledger.replace(0, pods[:9_000])
    rig.pass_s(31)
    assert len(rig.following) == 9_000
