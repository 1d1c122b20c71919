"""Which worker is the cheapest, and what its cost is made of."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from kvatlas.index._native import Candidates
from tests.index.choosing.native.fleets import CPU, GPU, INF, SmallFleet, terms

pytestmark = pytest.mark.native


def test_the_worker_that_holds_the_prefix_is_chosen_and_its_tokens_are_predicted() -> None:
    fleet = SmallFleet(8)
    decision = fleet.choose(1000, held={3: 50, 5: 20})
    assert (decision.row, decision.cached_tokens, decision.cost) == (3, 800, 200)
    assert decision.credits.tolist() == [0, 0, 0, 800, 0, 320, 0, 0]
    assert not decision.in_seconds


def test_a_prefix_is_left_when_the_queue_before_it_costs_more_than_its_prefill() -> None:
    fleet = SmallFleet(2)
    fleet.give(0, 799)
    assert fleet.choose(1000, held={0: 50}, by=terms(decode=0), reserve=False).row == 0
    fleet.give(0, 2)
    assert fleet.choose(1000, held={0: 50}, by=terms(decode=0), reserve=False).row == 1


def test_a_cold_burst_goes_one_to_each_worker_before_any_gets_a_second() -> None:
    fleet = SmallFleet(8)
    chosen = [fleet.choose(1000, seed=seed).row for seed in range(16)]
    assert sorted(chosen[:8]) == sorted(chosen[8:]) == list(range(8))


def test_siblings_of_a_cold_burst_spread_and_pay_for_their_prefix_once_a_worker() -> None:
    """As the chooser does it: who is sent a prompt counts as holding it from then on."""
    fleet = SmallFleet(8)
    prefix, prompt = 1600, 1640
    sent = np.zeros(8, np.float32)
    prefilled, requests = Counter[int](), Counter[int]()
    for _ in range(200):
        decision = fleet.choose(prompt, hints=sent.tolist(), output_tokens=64)
        requests[decision.row] += 1
        prefilled[decision.row] += sent[decision.row] == 0
        sent[decision.row] = prefix
    assert max(requests.values()) <= 1.3 * 200 / 8 and min(requests.values()) >= 200 / 8 / 1.3
    assert set(prefilled.values()) == {1}


def test_siblings_of_a_warm_prefix_stay_until_decoding_there_costs_more_than_a_prefill() -> None:
    """Four held prompts weigh as much as one that is computed: the weight of decode is a quarter."""
    fleet = SmallFleet(4)
    rows = [fleet.choose(1600, held={0: 100}).row for _ in range(6)]
    assert rows[:4] == [0] * 4 and 0 not in rows[4:]


def test_costs_add_what_others_left_to_prefill_and_what_they_hold_with_their_weights() -> None:
    fleet = SmallFleet(1)
    fleet.give(0, 300, output_tokens=100)
    weights = terms(overlap=2, prefill=3, decode=0.5)
    assert fleet.choose(1000, held={0: 10}, by=weights).cost == 2 * 840 + 3 * 300 + 0.5 * 400


def test_a_token_that_is_loaded_back_is_worth_less_than_one_on_the_device() -> None:
    fleet = SmallFleet(2)
    decision = fleet.choose(1000, held={0: {GPU: 10, CPU: 40}, 1: 50}, reserve=False)
    assert decision.credits.tolist() == [160 + 640 * 0.95, 800]
    assert (decision.row, decision.cached_tokens) == (1, 800)


def test_a_partly_reused_last_block_counts_but_for_its_last_token() -> None:
    fleet = SmallFleet(1)
    decision = fleet.choose(160, held={0: 10}, partial=[0])
    assert (decision.cached_tokens, decision.cost) == (159, 1)


def test_a_worker_whose_truth_is_doubtful_counts_by_its_share_but_predicts_in_full() -> None:
    fleet = SmallFleet(2, discounts=[0.25, 1])
    decision = fleet.choose(1000, held={0: 50, 1: 20})
    assert decision.row == 1
    assert decision.credits.tolist() == [200, 320]
    assert fleet.choose(1000, held={0: 50}, costs=[0, 1]).cached_tokens == 800


def test_what_the_index_says_of_a_blind_worker_does_not_count_but_hints_do() -> None:
    fleet = SmallFleet(1, discounts=[0])
    decision = fleet.choose(1000, held={0: 50}, hints=[320])
    assert (decision.cached_tokens, decision.index_tokens, decision.cost) == (320, 0, 680)


def test_a_hint_counts_where_it_is_more_than_the_index_says() -> None:
    fleet = SmallFleet(2)
    decision = fleet.choose(1000, held={0: 50, 1: 10}, hints=[100, 900])
    assert (decision.row, decision.cached_tokens, decision.index_tokens) == (1, 900, 160)
    assert decision.credits.tolist() == [800, 900]


def test_no_more_than_the_prompt_is_ever_credited() -> None:
    decision = SmallFleet(1).choose(100, held={0: 50})
    assert (decision.cached_tokens, decision.cost) == (100, 0)


def test_a_hint_of_a_whole_prompt_leaves_the_last_block_that_engines_compute_again() -> None:
    assert SmallFleet(1).choose(100, hints=[5000]).cached_tokens == 96
    assert SmallFleet(1).choose(96, hints=[96]).cached_tokens == 80
    assert SmallFleet(1).choose(0, hints=[96]).cached_tokens == 0


def test_the_worker_of_the_session_is_preferred_by_the_bonus_and_no_more() -> None:
    by = terms(session_bonus_tokens=256, decode=0)
    assert SmallFleet(4).choose(1000, bonus_row=2, by=by).row == 2
    assert SmallFleet(4).choose(1000, held={0: 15}, bonus_row=2, by=by).row == 2
    assert SmallFleet(4).choose(1000, held={0: 17}, bonus_row=2, by=by).row == 0


def test_a_worker_that_is_far_costs_its_offset_more() -> None:
    fleet = SmallFleet(2, offsets=[500, 0])
    assert fleet.choose(1000, held={0: 30}, reserve=False).row == 1
    assert fleet.choose(1000, held={0: 32}, reserve=False).row == 0


def test_overlap_counts_less_on_a_worker_with_more_requests_than_is_hot() -> None:
    fleet = SmallFleet(2)
    for _ in range(4):
        fleet.give(0, 0)
    cold = fleet.choose(1000, held={0: 50}, by=terms(hot_requests=4), reserve=False)
    hot = fleet.choose(1000, held={0: 50}, by=terms(hot_requests=1), reserve=False)
    assert (cold.cost, hot.costs[0]) == (200, 800)
    assert hot.credits[0] == 800  # what is there stays there


def test_equals_are_drawn_by_the_seed_and_evenly() -> None:
    fleet = SmallFleet(4)
    drawn = [fleet.choose(reserve=False, seed=seed).row for seed in range(4000)]
    assert drawn == [fleet.choose(reserve=False, seed=seed).row for seed in range(4000)]
    assert all(900 < count < 1100 for count in Counter(drawn).values())


def test_temperature_takes_the_cheapest_most_often_and_others_too() -> None:
    fleet = SmallFleet(3)
    by = terms(temperature=0.5)
    drawn = Counter(
        fleet.choose(1000, held={0: 60, 1: 30}, by=by, reserve=False, seed=seed).row for seed in range(3000)
    )
    # exp(0), exp(-480 / 960 / 0.5), exp(-1 / 0.5), normalised
    shares = np.exp([0.0, -1.0, -2.0])
    for row, share in enumerate(shares / shares.sum()):
        assert drawn[row] / 3000 == pytest.approx(share, abs=0.03)


def test_longest_prefix_ignores_loads_and_takes_the_least_loaded_of_equals() -> None:
    fleet = SmallFleet(3)
    fleet.give(0, 10_000)
    by = terms(kind="longest_prefix", session_bonus_tokens=500)
    assert fleet.choose(1000, held={0: 50, 1: 49}, by=by, reserve=False).row == 0
    fleet.give(1, 10)
    assert {fleet.choose(by=by, reserve=False, seed=seed).row for seed in range(50)} == {2}


def test_least_loaded_ignores_what_is_held() -> None:
    fleet = SmallFleet(2)
    fleet.give(0, 10)
    assert fleet.choose(1000, held={0: 60}, by=terms(kind="least_loaded")).row == 1


def test_random_ignores_everything_and_is_even() -> None:
    fleet = SmallFleet(4, offsets=[0, 100, 100, 100])
    fleet.give(0, 10_000)
    by = terms(kind="random")
    drawn = Counter(fleet.choose(held={1: 60}, by=by, reserve=False, seed=seed).row for seed in range(4000))
    assert all(900 < drawn[row] < 1100 for row in range(4))


def test_round_robin_goes_round_whether_or_not_it_reserves() -> None:
    fleet = SmallFleet(3)
    by = terms(kind="round_robin")
    rows = [fleet.choose(held={0: 60}, by=by, reserve=n % 2 == 0).row for n in range(9)]
    assert sorted(rows[:3]) == [0, 1, 2] and rows[:3] * 3 == rows


def test_costs_of_ones_own_decide_and_infinity_means_never() -> None:
    fleet = SmallFleet(3)
    assert fleet.choose(1000, held={0: 60}, costs=[5, -1, INF]).row == 1
    refused = fleet.choose(costs=[INF, INF, INF])
    assert (refused.row, refused.slot, refused.is_reserved) == (-1, -1, False)


def test_a_worker_with_its_most_requests_is_passed_over_until_one_ends() -> None:
    fleet = SmallFleet(2, requests_max=[2, 0])
    ids = [fleet.give(0, 1) for _ in range(2)]
    decision = fleet.choose(1000, held={0: 60}, reserve=False)
    assert decision.row == 1 and decision.states.tolist() == [1, 0]
    fleet.book.completed(ids[0], 1.0)
    assert fleet.choose(1000, held={0: 60}, reserve=False).row == 0


@pytest.mark.parametrize("kind", ["weighted", "longest_prefix", "least_loaded", "random", "round_robin"])
def test_others_work_up_to_the_limit_saturates_a_worker_under_every_policy(kind: str) -> None:
    fleet = SmallFleet(2, limits=[1000, INF])
    fleet.give(0, 800)  # 800 to prefill, and a quarter of 800 held
    rows = {fleet.choose(10, by=terms(kind=kind), reserve=False, seed=seed).row for seed in range(30)}
    assert rows == {1}


def test_when_all_are_saturated_it_says_when_one_is_expected_to_be_free() -> None:
    fleet = SmallFleet(2, requests_max=[1, 1])
    for row in (0, 1):
        done = fleet.give(row, 100, now_s=0)
        fleet.book.completed(done, 4.0 + row)  # requests stay 4 s on one, 5 s on the other
        fleet.give(row, 100, now_s=10)
    decision = fleet.choose(now_s=10)
    assert (decision.row, decision.retry_after_s) == (-1, 4.0)
    assert fleet.book.statistics()["saturated"] == 1


def test_the_wait_for_a_limit_of_work_is_the_time_that_the_work_beyond_it_takes() -> None:
    fleet = SmallFleet(1, limits=[1000], rates=[500])
    fleet.give(0, 2000)
    decision = fleet.choose(10, by=terms(decode=0))
    assert (decision.row, decision.retry_after_s) == (-1, 2.0)


def test_with_nobody_to_choose_there_is_no_row() -> None:
    assert SmallFleet(0).choose().row == -1


def test_a_worker_that_left_is_passed_over_by_candidates_made_before() -> None:
    fleet = SmallFleet(2)
    fleet.book.forget("pod0")
    decision = fleet.choose(1000, held={0: 60})
    assert decision.row == 1 and decision.states.tolist() == [2, 0]


def test_workers_of_the_match_that_are_no_candidates_do_not_matter() -> None:
    assert SmallFleet(2).choose(1000, held={7: 60, 0xFFFFFFFF: 60, 1: 3}).row == 1


def test_one_number_for_workers_that_the_index_does_not_know_is_fine() -> None:
    fleet = SmallFleet(3)
    none = 0xFFFFFFFF
    fleet.candidates = Candidates(
        numbers=np.array([none, 5, none], np.uint32),
        slots=np.arange(3, dtype=np.uint32),
        discounts=np.ones(3, np.float32),
    )
    assert fleet.choose(1000, held={5: 40}).row == 1
