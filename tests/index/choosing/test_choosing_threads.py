"""Many threads, one chooser: no request is lost, and none sees the same idle worker as all others."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from kvatlas.index.choosing.choice import Choice
from tests.index.choosing.small_fleet import SmallFleet, prompt

THREADS = 8
EACH = 100


def in_threads(fleet: SmallFleet, lives: bool) -> list[Choice]:
    """Every thread chooses; where requests live, it also ends its own, in each of the ways."""
    chosen: list[Choice] = []
    start = threading.Barrier(THREADS)

    def work(number: int) -> None:
        start.wait()
        for i in range(EACH):
            choice = fleet.chooser.choose(prompt(8, i % 5), model="m", tenant=str(number))
            chosen.append(choice)
            if lives:
                known = choice.request_id
                if i % 4 == 0:
                    known = fleet.chooser.another(known, without=[choice.pod]).request_id
                assert fleet.chooser.prefill_done(known)
                assert fleet.chooser.completed(known) if i % 2 else fleet.chooser.failed(known)
                fleet.chooser.receipts(str(number), 2)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return chosen


def test_a_burst_of_threads_is_spread_evenly() -> None:
    with SmallFleet([f"pod{i}" for i in range(8)]) as fleet:
        chosen = in_threads(fleet, lives=False)
        assert len({choice.request_id for choice in chosen}) == THREADS * EACH
        counts = Counter(choice.pod for choice in chosen)
        assert len(counts) == 8 and max(counts.values()) <= 1.5 * EACH
        assert sum(fleet.load(f"pod{i}")[2] for i in range(8)) == THREADS * EACH


@pytest.mark.slow
def test_requests_of_many_threads_leave_nothing_behind() -> None:
    with SmallFleet() as fleet:
        assert len(in_threads(fleet, lives=True)) == THREADS * EACH
        assert all(fleet.load(pod) == (0, 0, 0) for pod in "abc")
        statistics = fleet.chooser.statistics()
        assert statistics.in_flight == statistics.unknown_requests == statistics.loads["reservations"] == 0
        assert statistics.completed + statistics.failed == THREADS * EACH
        assert statistics.moved == THREADS * EACH // 4


@pytest.mark.slow
def test_a_request_that_many_threads_send_elsewhere_counts_at_one_worker() -> None:
    with SmallFleet() as fleet:
        for _ in range(200):
            fleet.chooser.rank(prompt(10), model="m", request_id="x")
            threads = [threading.Thread(target=fleet.chooser.routed, args=("x", pod)) for pod in "abc"]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sum(fleet.load(pod)[2] for pod in "abc") == 1
            assert fleet.chooser.failed("x")
            assert [fleet.load(pod) for pod in "abc"] == [(0, 0, 0)] * 3
