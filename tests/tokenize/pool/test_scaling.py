"""When a pool grows and shrinks, by a clock that is turned by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.index.errors import ConfigError
from kvatlas.tokenize.pool.scaling import PoolLoad, ScalingLimits, ScalingRule

IDLE = PoolLoad(threads=4, waiting=0, busy_share=0.0)
BUSY = PoolLoad(threads=4, waiting=0, busy_share=0.8)
CROWDED = PoolLoad(threads=4, waiting=9, busy_share=1.0)


class Rig:
    def __init__(self, count_min: int = 1, count_max: int = 8) -> None:
        self.now_s = 0.0
        limits = ScalingLimits(count_min=count_min, count_max=count_max, grow_s=2.0, shrink_s=60.0)
        self.rule = ScalingRule(limits, lambda: self.now_s)

    def wanted(self, load: PoolLoad, seconds: float, members: int | None = None) -> int:
        """After so long of this load; all that are wanted are up, unless said otherwise."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s += 0.25
            self.rule.step([load] * (self.rule.wanted if members is None else members))
        return self.rule.wanted


def test_it_grows_while_requests_wait_faster_the_larger_it_is() -> None:
    rig = Rig()
    assert rig.wanted(CROWDED, 2.0) == 1
    assert [rig.wanted(CROWDED, 2.25) for _ in range(5)] == [2, 3, 4, 6, 8]
    assert rig.wanted(CROWDED, 60) == 8


def test_a_short_crowd_is_waited_out() -> None:
    rig = Rig()
    for _ in range(20):
        assert rig.wanted(CROWDED, 1.5) == 1
        assert rig.wanted(BUSY, 0.5) == 1


def test_it_waits_for_those_that_it_has_begun() -> None:
    rig = Rig(count_min=2)
    assert rig.wanted(CROWDED, 30, members=1) == 2
    assert rig.wanted(CROWDED, 3, members=2) == 3


def test_it_shrinks_one_at_a_time_when_one_less_would_do_for_long() -> None:
    rig = Rig(count_min=2)
    rig.rule.adopt(5)
    assert rig.wanted(IDLE, 59) == 5
    assert rig.wanted(IDLE, 2) == 4
    assert rig.wanted(IDLE, 59) == 4
    assert rig.wanted(IDLE, 300) == 2


def test_a_refusal_counts_as_a_crowd_and_a_moment_of_work_ends_idleness() -> None:
    rig = Rig()
    assert rig.wanted(IDLE._replace(refused=1), 3) == 2
    assert rig.wanted(IDLE, 50) == 2
    assert rig.wanted(BUSY, 0.25) == 2
    assert rig.wanted(IDLE, 50) == 2


def test_those_that_never_come_are_given_up_when_the_others_do() -> None:
    rig = Rig()
    rig.rule.adopt(5)
    assert rig.wanted(BUSY, 600, members=2) == 5
    assert rig.wanted(IDLE, 61, members=2) == 4
    assert rig.wanted(IDLE, 600, members=0) == 4


def test_a_pool_that_may_have_some_has_one_and_one_that_may_not_has_none() -> None:
    assert Rig(count_min=0).wanted(IDLE, 600) == 1
    assert Rig(count_min=0, count_max=0).wanted(CROWDED, 600) == 0


@given(share=st.floats(0, 1), members=st.integers(1, 8))
def test_no_steady_load_makes_it_swing(share: float, members: int) -> None:
    """Work that keeps so many busy so far: the count moves one way only, then stays."""
    rig = Rig()
    rig.rule.adopt(members)
    work = share * 4 * members
    seen = [rig.rule.wanted]
    for _ in range(12):
        end_s = rig.now_s + 61
        while rig.now_s < end_s:
            rig.now_s += 0.5
            threads = 4 * rig.rule.wanted
            busy = min(1.0, work / threads)
            waiting = 50 if work > threads else 0
            rig.rule.step([PoolLoad(4, waiting, busy)] * rig.rule.wanted)
        seen.append(rig.rule.wanted)
    assert seen in (sorted(seen), sorted(seen, reverse=True))


@pytest.mark.parametrize("limits", [{"count_min": 3, "count_max": 2}, {"count_min": -1}, {"grow_s": 0.0}])
def test_limits_out_of_range_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(limits))):
        ScalingLimits(**limits)
