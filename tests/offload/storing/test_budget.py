"""The write budget: seconds of queue at the rate that is measured."""

from __future__ import annotations

import pytest

from kvatlas.offload.storing.budget import WriteBudget

CHUNK = 1_000_000


def settled(rate: int, seconds: float) -> tuple[WriteBudget, float]:
    """A budget that has seen this rate for a minute, its queue empty, and the time."""
    budget, now_s = WriteBudget(seconds, 0.0), 0.0
    for _ in range(60):
        admitted = budget.admit(rate // 2, 1, now_s)
        assert admitted == 1
        now_s += 0.5
        budget.finished(rate // 2, rate // 2, now_s)
        now_s += 0.5  # idle: counts for nothing
    return budget, now_s


@pytest.mark.parametrize("rate", [10_000_000, 2_000_000_000])
def test_it_admits_so_many_seconds_of_what_is_written(rate: int) -> None:
    budget, now_s = settled(rate, 2.0)
    admitted = budget.admit(CHUNK, 1_000_000, now_s)
    assert admitted * CHUNK == pytest.approx(2.0 * rate, rel=0.25)
    assert budget.admit(CHUNK, 1_000_000, now_s) == 0
    assert budget.queued_bytes == admitted * CHUNK


def test_an_empty_queue_takes_a_chunk_even_with_no_budget_at_all() -> None:
    budget = WriteBudget(0.0, 0.0)
    assert budget.admit(CHUNK, 5, 0.0) == 1
    assert budget.admit(CHUNK, 5, 0.0) == 0
    budget.finished(CHUNK, CHUNK, 1.0)
    assert budget.admit(CHUNK, 5, 1.0) == 1


def test_a_queue_that_stands_still_lowers_the_rate() -> None:
    budget, now_s = settled(100_000_000, 1.0)
    budget.admit(CHUNK, 10, now_s)
    before, after = budget.rate(now_s), budget.rate(now_s + 100.0)
    assert after < before / 5


def test_what_failed_to_be_written_leaves_the_queue_and_lowers_the_rate() -> None:
    budget, now_s = settled(100_000_000, 1.0)
    before = budget.rate(now_s)
    budget.admit(CHUNK, 10, now_s)
    budget.finished(10 * CHUNK, 0, now_s + 5.0)
    assert budget.queued_bytes == 0
    assert budget.rate(now_s + 5.0) < before


def test_what_is_withdrawn_counts_no_longer() -> None:
    budget = WriteBudget(1.0, 0.0)
    admitted = budget.admit(CHUNK, 10, 0.0)
    budget.withdraw(admitted * CHUNK)
    assert budget.queued_bytes == 0
