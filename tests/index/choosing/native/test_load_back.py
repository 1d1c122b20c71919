"""What is learned of loading from lower tiers, and what it does to costs."""

from __future__ import annotations

import numpy as np
import pytest

from tests.index.choosing.native.fleets import CPU, SmallFleet, terms

pytestmark = pytest.mark.native

DISK = 2
NO_DECODE = terms(decode=0)


def prefilling(n: int = 1, tokens_per_s: float = 2000) -> tuple[SmallFleet, float]:
    """Workers whose prefill rate is known, and the time by then."""
    fleet = SmallFleet(n)
    end_s = 0.0
    for row in range(n):
        end_s = fleet.busy(row, 2000, 2000 / tokens_per_s, from_s=end_s, times=4)
    return fleet, end_s


def rates(fleet: SmallFleet, row: int = 0) -> list[float]:
    """Tokens/s from cpu, disk and storage."""
    found: list[float] = fleet.book.snapshot(fleet.candidates).load_back_rates[row].tolist()
    return found


def prefill_rate(fleet: SmallFleet) -> float:
    return float(fleet.book.snapshot(fleet.candidates).prefill_rate[0])


def test_what_computing_does_not_explain_of_three_stretches_is_the_loading_of_a_tier() -> None:
    fleet, now_s = prefilling()
    # 100 tokens at 2 000/s are 0.05 s: 0.2 s are left for 2 000 that were loaded.
    now_s = fleet.load_back(0, [0, 2000, 0], 0.25, from_s=now_s, times=2)
    assert rates(fleet) == [0, 0, 0]
    fleet.load_back(0, [0, 2000, 0], 0.25, from_s=now_s)
    assert rates(fleet) == pytest.approx([0, 10_000, 0])
    assert prefill_rate(fleet) == pytest.approx(2000)
    assert fleet.book.statistics()["learned_loads"] == 3


@pytest.mark.parametrize(
    ("loaded", "computed"),
    [([1000, 1000, 0], 100), ([2000, 10, 0], 100), ([2000, 0, 0], 2001), ([1023, 0, 0], 100)],
    ids=["two tiers", "a little of another", "more computed", "little loaded"],
)
def test_stretches_in_which_loading_cannot_be_told_apart_teach_nothing(
    loaded: list[int], computed: int
) -> None:
    fleet, now_s = prefilling()
    fleet.load_back(0, loaded, 5.0, computed=computed, from_s=now_s, times=6, prefill_tokens=computed + 50)
    assert rates(fleet) == [0, 0, 0]
    assert prefill_rate(fleet) == pytest.approx(2000)


def test_a_stretch_that_loads_an_eighth_of_what_it_computes_still_teaches_the_prefill_rate() -> None:
    for loaded, taught in ((250, True), (251, False)):
        fleet, now_s = prefilling()
        fleet.load_back(0, [loaded, 0, 0], 4.0, computed=2000, from_s=now_s, times=20, prefill_tokens=2000)
        assert (prefill_rate(fleet) < 600) == taught


def test_a_worker_that_always_loads_gets_a_prefill_rate_with_the_shares_of_the_terms() -> None:
    fleet = SmallFleet(1)
    fleet.load_back(0, [4000, 0, 0], 1.0, computed=1000, times=4, prefill_tokens=1200)
    assert prefill_rate(fleet) == pytest.approx(1200)
    assert rates(fleet) == [0, 0, 0]


def test_loading_is_learned_from_choices_where_the_index_is_sure() -> None:
    for discount, hint, known in (
        (1.0, 0.0, True),
        (0.5, 0.0, False),
        (-1.0, 0.0, False),
        (1.0, 1900, False),
    ):
        fleet = SmallFleet(1, discounts=[discount])
        now_s = fleet.busy(0, 2000, 1.0, times=4)
        for _ in range(4):
            fleet.choose(2000, held={0: {CPU: 110}}, hints=[hint], by=terms(tier_costs=[1] * 5), now_s=now_s)
            now_s += 0.5
            fleet.book.prefill_done(fleet.last_id, now_s)
            fleet.book.completed(fleet.last_id, now_s)
        # 240 of 2 000 were computed, in 0.12 s; 1 760 loaded in 0.38 s.
        assert rates(fleet)[0] == (pytest.approx(1760 / 0.38) if known else 0)


def test_blocks_in_a_tier_that_nobody_knows_teach_nothing() -> None:
    fleet, now_s = prefilling()
    for _ in range(6):
        fleet.choose(4000, held={0: {CPU: 150, 4: 1}}, now_s=now_s)
        now_s += 0.5
        fleet.book.prefill_done(fleet.last_id, now_s)
        fleet.book.completed(fleet.last_id, now_s)
    assert rates(fleet) == [0, 0, 0]


def test_what_was_measured_takes_the_place_of_the_share_that_terms_say() -> None:
    fleet, now_s = prefilling()
    now_s = fleet.load_back(0, [2000, 0, 0], 0.25, from_s=now_s, times=3)
    decision = fleet.choose(1000, held={0: {CPU: 50}}, by=NO_DECODE, now_s=now_s, reserve=False)
    # 200 to compute at 2 000/s, 800 to load at 10 000/s.
    assert decision.in_seconds and decision.cost == pytest.approx(0.1 + 0.08)
    assert decision.credits[0] == pytest.approx(800 * (1 - 0.2))
    other = fleet.choose(1000, held={0: {DISK: 50}}, by=NO_DECODE, now_s=now_s, reserve=False)
    assert other.credits[0] == pytest.approx(800 * (1 - 0.2)), "nothing is known of disk: the terms' 0.2"


def test_where_costs_are_tokens_the_measured_share_counts_for_the_worker_that_was_measured() -> None:
    fleet, now_s = prefilling(1)
    fleet.load_back(0, [2000, 0, 0], 0.55, from_s=now_s, times=3)  # 0.25 ms a token, half of computing one
    wide = SmallFleet(3)
    wide.book = fleet.book
    for pod in ("pod1", "pod2"):
        wide.book.slot(pod, 0)
    decision = wide.choose(1000, held={0: {CPU: 50}, 1: {CPU: 50}}, now_s=now_s + 1.65, reserve=False)
    assert not decision.in_seconds
    assert decision.credits.tolist() == pytest.approx([400, 760, 0])


def test_of_two_that_hold_the_same_in_their_cpu_tier_the_one_that_loads_faster_is_chosen() -> None:
    fleet, now_s = prefilling(2)
    fleet.load_back(0, [2000, 0, 0], 0.65, from_s=now_s, times=3)
    end_s = fleet.load_back(1, [2000, 0, 0], 0.1, from_s=now_s, times=3)
    held = {0: {CPU: 50}, 1: {CPU: 50}}
    assert {fleet.choose(1000, held=held, now_s=end_s, reserve=False, seed=s).row for s in range(20)} == {1}


def test_loading_that_takes_longer_than_computing_earns_nothing_and_costs_nothing_more() -> None:
    fleet, now_s = prefilling()
    now_s = fleet.load_back(0, [2000, 0, 0], 9.0, from_s=now_s, times=3)
    decision = fleet.choose(1000, held={0: {CPU: 50}}, by=NO_DECODE, now_s=now_s, reserve=False)
    assert decision.credits.tolist() == [0]
    assert decision.cost == pytest.approx(0.5)


def test_loading_beside_computing_takes_no_time_and_loaded_tokens_count_in_full() -> None:
    fleet, now_s = prefilling()
    now_s = fleet.load_back(0, [2000, 0, 0], 0.04, from_s=now_s, times=3)
    assert rates(fleet) == [np.inf, 0, 0]
    assert fleet.choose(1000, held={0: {CPU: 50}}, now_s=now_s, reserve=False).credits.tolist() == [800]


def test_a_measured_load_drifts_back_to_the_terms_while_nothing_is_measured() -> None:
    fleet, now_s = prefilling()
    now_s = fleet.load_back(0, [2000, 0, 0], 9.0, from_s=now_s, times=3)

    def share(at_s: float) -> float:
        decision = fleet.choose(1000, held={0: {CPU: 50}}, now_s=at_s, reserve=False)
        return 1 - float(decision.credits[0]) / 800

    assert share(now_s) == pytest.approx(1)
    assert share(now_s + 60) == pytest.approx((1 + 0.05) / 2)
    assert share(now_s + 6000) == pytest.approx(0.05, abs=0.02)


def test_one_slow_load_moves_the_rate_by_a_factor_at_most_and_it_comes_back() -> None:
    fleet, now_s = prefilling()
    now_s = fleet.load_back(0, [2000, 0, 0], 0.25, from_s=now_s, times=10)
    now_s = fleet.load_back(0, [2000, 0, 0], 500.0, from_s=now_s)
    assert 10_000 / 4 < rates(fleet)[0] < 10_000
    fleet.load_back(0, [2000, 0, 0], 0.25, from_s=now_s, times=20)
    assert rates(fleet)[0] == pytest.approx(10_000, rel=0.05)


def test_a_tier_that_took_no_time_can_become_slow() -> None:
    fleet, now_s = prefilling()
    now_s = fleet.load_back(0, [2000, 0, 0], 0.04, from_s=now_s, times=10)
    fleet.load_back(0, [2000, 0, 0], 0.65, from_s=now_s, times=30)
    assert rates(fleet)[0] == pytest.approx(2000 / 0.6, rel=0.1)


def test_loads_that_end_in_one_step_share_its_time() -> None:
    fleet, now_s = prefilling()
    for _ in range(12):
        ids = []
        for _ in range(2):
            fleet.choose(2000, held={0: {CPU: 125}}, partial=[0], by=terms(tier_costs=[1] * 5), now_s=now_s)
            ids.append(fleet.last_id)
        now_s += 0.4
        for request_id in ids:
            fleet.book.prefill_done(request_id, now_s)
            fleet.book.completed(request_id, now_s)
            now_s += 0.0004
    assert rates(fleet)[0] == pytest.approx(4000 / 0.4, rel=0.15)
