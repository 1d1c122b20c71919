"""Which lane is which pod and group."""

from __future__ import annotations

import pytest

from kvatlas.index.errors import InputError
from kvatlas.index.remote.llmd.lane_names import (
    NOBODY_VOUCHES,
    LaneName,
    LaneNames,
    pod_identifier,
    worker_of,
)


def test_rank_0_has_the_pod_s_name_and_the_others_one_of_their_own() -> None:
    assert [pod_identifier("p", rank) for rank in (0, 1, 12)] == ["p", "p@dp1", "p@dp12"]
    for pod, rank in [("p", 0), ("p", 3), ("a@dp", 1), ("ip:1", 65_535)]:
        assert worker_of(pod_identifier(pod, rank)) == (pod, rank)


@pytest.mark.parametrize("name", ["p@dp", "p@dp0", "p@dp01", "p@dpx", "@dp1", "p@dp65536", "p@dp1 ", "p@dp²"])
def test_a_name_that_only_looks_like_a_rank_is_a_pod(name: str) -> None:
    assert worker_of(name) == (name, 0)


def test_a_lane_has_one_name_and_a_name_one_lane() -> None:
    names = LaneNames()
    names.put(1, "a")
    names.put(1, "a")
    names.put(2, "a", 0)
    for lane, pod, group in [
        (1, "b", None),
        (3, "a", None),
        (3, "", None),
        (-1, "c", None),
        (65_535, "c", None),
    ]:
        with pytest.raises(InputError):
            names.put(lane, pod, group)
    assert names.lane_of("a", None) == 1
    assert names.lane_of("a", 0) == 2
    assert names.lane_of("a", 1) is None
    names.drop(1)
    names.put(3, "a")
    assert names.lane_of("a", None) == 3
    with pytest.raises(InputError, match="nobody has named"):
        names.name_of(1)


def test_a_name_that_moves_says_which_lanes_must_go_first() -> None:
    names = LaneNames()
    for lane, pod in enumerate("abcd"):
        names.put(lane, pod)
    changes = names.changes
    names.put(0, "a")
    assert names.changes == changes
    # 1 is another's now, c has another lane, and 3 is a store's.
    wanted = {0: LaneName("a"), 1: LaneName("x"), 7: LaneName("c"), 3: None}
    assert names.in_the_way(wanted) == [1, 2, 3]
    for lane in (1, 2, 3):
        names.drop(lane)
        names.leave_out(lane)
    assert names.in_the_way(wanted) == []
    names.put(1, "x")
    assert not names.is_left_out(1)
    assert names.lanes() == [0, 1]


def test_a_discovered_pod_that_is_put_is_no_stranger_any_more() -> None:
    names = LaneNames(discovers=True, discovered_max=2)
    assert names.lane_of("x", None) == 65_534
    version = names.version
    names.put(0, "x")
    assert names.lane_of("x", None) == 0
    assert names.part("m", 16).workers == ()
    assert names.version != version


def test_pods_without_a_lane_are_given_one_up_to_a_bound() -> None:
    names = LaneNames(discovers=True, discovered_max=2)
    names.put(0, "mine")
    assert names.lane_of("mine", None) == 0
    assert names.lane_of("x", None) == names.lane_of("x", 3) == 65_534
    assert names.lane_of("y@dp2", None) == 65_533
    assert names.lane_of("z", None) is None
    assert (names.version, names.refused) == (2, 1)
    part = names.part("m", 16)
    assert part.block_sizes == {"m": 16}
    assert [(view.pod, view.rank, view.number, view.state) for view in part.workers] == [
        ("x", 0, 65_534, "BLIND"),
        ("y", 2, 65_533, "BLIND"),
    ]
    assert all(view.doubts == (NOBODY_VOUCHES,) for view in part.workers)
    with pytest.raises(InputError):
        names.put(65_533, "late")


def test_a_mirror_s_lane_may_be_left_out() -> None:
    names = LaneNames()
    names.leave_out(4)
    assert names.is_left_out(4)
    names.drop(4)
    assert not names.is_left_out(4)
