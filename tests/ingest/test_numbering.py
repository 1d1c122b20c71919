"""Numbers of lanes and workers: where they come from, when they come again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas import InputError
from kvatlas.ingest.numbering import CountedNumbers, LeasedNumbers


class Clock:
    now_s = 5.0

    def __call__(self) -> float:
        return self.now_s


def test_counted_lanes_come_again_at_once_and_workers_never() -> None:
    numbers = CountedNumbers()
    assert [numbers.lane(), numbers.lane(), numbers.worker(), numbers.worker()] == [0, 1, 0, 1]
    numbers.give_back_lane(0)
    numbers.give_back_worker(0)
    assert (numbers.lane(), numbers.worker()) == (0, 2)


def test_counted_lanes_end_with_an_error_that_says_how_many_there_are() -> None:
    numbers = CountedNumbers()
    for _ in range(65535):
        numbers.lane()
    with pytest.raises(InputError, match="65535"):
        numbers.lane()
    numbers.give_back_lane(17)
    assert numbers.lane() == 17


def test_nothing_is_to_be_had_before_a_lease() -> None:
    numbers = LeasedNumbers()
    with pytest.raises(InputError, match="lanes: expected one of 0 leased"):
        numbers.lane()
    with pytest.raises(InputError, match="workers: expected one of 0 leased"):
        numbers.worker()
    assert (numbers.lanes_free, numbers.workers_free) == (0, 0)


def test_a_lease_told_again_or_overlapping_another_gives_each_number_once() -> None:
    numbers = LeasedNumbers()
    assert numbers.lease([(10, 3)], [(0, 1)])
    assert not numbers.lease([(10, 3)], [(0, 1)])
    assert numbers.lease([(10, 3), (12, 2)], [(0, 1)])
    assert sorted(numbers.lane() for _ in range(4)) == [10, 11, 12, 13]
    assert numbers.lanes_free == 0
    assert not numbers.lease([(10, 3), (12, 2)], []), "a lease is not given again because it is used"
    assert numbers.lanes_free == 0


@pytest.mark.parametrize("lease", [(-1, 2), (0, -1), (65535, 1), (0, 65536)])
def test_a_lease_out_of_range_is_refused_with_all_that_came_with_it(lease: tuple[int, int]) -> None:
    numbers = LeasedNumbers()
    with pytest.raises(InputError, match="lanes: expected a lease within 0 to 65535"):
        numbers.lease([(0, 5), lease], [(0, 5)])
    assert (numbers.lanes_free, numbers.workers_free) == (0, 0)


def test_what_is_given_back_rests() -> None:
    clock = Clock()
    numbers = LeasedNumbers(rest_s=60.0, clock_s=clock)
    numbers.lease([(3, 1)], [(4, 1)])
    numbers.give_back_lane(numbers.lane())
    numbers.give_back_worker(numbers.worker())
    clock.now_s += 59.9
    with pytest.raises(InputError, match="none; 1 rest"):
        numbers.lane()
    assert (numbers.lanes_free, numbers.workers_free) == (0, 0)
    clock.now_s += 0.1
    assert (numbers.lanes_free, numbers.workers_free) == (1, 1)
    assert (numbers.lane(), numbers.worker()) == (3, 4)


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("lease"), st.tuples(st.integers(0, 30), st.integers(0, 8))),
            st.tuples(st.just("take"), st.just((0, 0))),
            st.tuples(st.just("give back"), st.tuples(st.integers(0, 20), st.just(0))),
            st.tuples(st.just("wait"), st.tuples(st.integers(0, 7), st.just(0))),
        ),
        max_size=60,
    )
)
def test_no_lane_is_two_peoples_or_comes_again_before_it_has_rested(
    steps: list[tuple[str, tuple[int, int]]],
) -> None:
    clock = Clock()
    numbers = LeasedNumbers(rest_s=5.0, clock_s=clock)
    leases: list[tuple[int, int]] = []
    leased: set[int] = set()
    used: list[int] = []
    rests_until: dict[int, float] = {}
    for step, (first, count) in steps:
        if step == "lease":
            leases.append((first, count))
            leased |= set(range(first, first + count))
            numbers.lease(leases, [])
        elif step == "wait":
            clock.now_s += first
        elif step == "give back" and used:
            lane = used.pop(first % len(used))
            rests_until[lane] = clock.now_s + 5.0
            numbers.give_back_lane(lane)
        elif step == "take":
            free = {n for n in leased - set(used) if rests_until.get(n, 0.0) <= clock.now_s}
            assert numbers.lanes_free == len(free)
            if free:
                lane = numbers.lane()
                assert lane in free
                used.append(lane)
            else:
                with pytest.raises(InputError):
                    numbers.lane()
