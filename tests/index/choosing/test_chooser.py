"""Choices by what they depend on: caches, loads, filters, truth."""

from __future__ import annotations

import asyncio
from collections import Counter

import numpy as np
import pytest

from kvatlas.index.choosing.ask import Ask
from kvatlas.index.choosing.serving import Serving
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.errors import InputError, NoWorkerError, OverloadedError
from tests.index.choosing.small_fleet import BLOCK, CONFIG, SmallFleet, prompt


def test_the_worker_that_holds_most_of_a_prompt_gets_it() -> None:
    with SmallFleet() as fleet:
        fleet.hold("a", 2)
        fleet.hold("b", 8)
        choice = fleet.chooser.choose(prompt(10), model="m")
        assert (choice.pod, choice.rank, choice.cached_tokens) == ("b", 0, 8 * BLOCK)
        assert choice.prompt_tokens == 10 * BLOCK + 1 and choice.truth == "EXACT"
        assert choice.is_reserved and choice.policy == "weighted" and choice.reason == ""
        assert choice.cost == pytest.approx(2 * BLOCK + 1) and choice.cost_unit == "tokens"


def test_lists_arrays_and_bytes_are_one_prompt() -> None:
    with SmallFleet() as fleet:
        fleet.hold("c", 8)
        ids = np.array(prompt(10), np.uint32)
        for given in (prompt(10), ids, ids.tobytes()):
            choice = fleet.chooser.choose(given, ask=Ask(model="m", reserve=False))
            assert (choice.pod, choice.cached_tokens, choice.prompt_tokens) == ("c", 128, 161)


def test_a_cached_prefix_stops_being_worth_it_where_the_queue_costs_more_than_it_saves() -> None:
    with SmallFleet(("a", "b")) as fleet:
        fleet.hold("a", 8)
        assert fleet.chooser.adopt("x", "a", 0, model="m", prompt_tokens=127, output_tokens=0)
        fleet.chooser.prefill_done("x")  # what is left is decoding, which weighs little
        assert fleet.chooser.choose(prompt(10), model="m", reserve=False).pod == "a"
        assert fleet.chooser.adopt("y", "a", 0, model="m", prompt_tokens=200, output_tokens=0)
        assert fleet.chooser.choose(prompt(10), model="m", reserve=False).pod == "b"


def test_equal_workers_are_drawn_by_lot_and_each_gets_its_share() -> None:
    with SmallFleet() as fleet:
        drawn = Counter(fleet.chooser.choose(prompt(4), model="m", reserve=False).pod for _ in range(600))
        assert min(drawn[pod] for pod in "abc") > 120


def test_a_burst_that_no_event_has_caught_up_with_goes_where_the_first_went_until_that_costs_more() -> None:
    with SmallFleet(("a", "b")) as fleet:
        first = fleet.chooser.choose(prompt(64), model="m")
        second = fleet.chooser.choose(prompt(64), model="m")
        assert second.pod != first.pod  # it would have waited for all of the first one's prefill
        for sent in (first, second):
            fleet.chooser.prefill_done(sent.request_id)
            fleet.chooser.completed(sent.request_id)
        third = fleet.chooser.choose(prompt(64), model="m")
        assert third.cached_tokens == 64 * BLOCK and third.is_reserved
        fleet.clock.now_s += CONFIG.speculative_s + 1
        assert fleet.chooser.choose(prompt(64), model="m").cached_tokens == 0


def test_a_session_stays_with_its_worker_as_long_as_others_are_not_much_better() -> None:
    with SmallFleet() as fleet:
        asked = Ask(model="m", session="s", tenant="t")
        pod = fleet.chooser.choose(prompt(4), ask=asked).pod
        other = next(name for name in "abc" if name != pod)
        for _ in range(10):
            assert fleet.chooser.choose(prompt(4, 5), ask=asked, reserve=False).pod == pod
        fleet.hold(other, 40, family=6)
        assert fleet.chooser.choose(prompt(40, 6), ask=asked).pod == other
        assert fleet.chooser.choose(prompt(4, 5), ask=asked).pod == other


def test_sessions_of_two_tenants_do_not_meet() -> None:
    with SmallFleet() as fleet:
        mine = fleet.chooser.choose(prompt(4), model="m", session="s", tenant="t").pod
        fleet.chooser.completed(fleet.chooser.receipts("t")[0].request_id)
        drawn = {
            fleet.chooser.choose(prompt(4, 9), model="m", session="s", tenant="u", reserve=False).pod
            for _ in range(100)
        }
        assert drawn == {"a", "b", "c"} and mine in drawn


def test_saturated_workers_are_left_out_and_when_all_are_it_says_so() -> None:
    config = ChoosingConfig(queue_requests_max=1)
    with SmallFleet((), config) as fleet:
        for pod in "ab":
            fleet.serve(pod, serving=Serving(requests_max=1))
        fleet.hold("a", 8)
        pods = [fleet.chooser.choose(prompt(10), model="m", request_id=str(i)).pod for i in range(4)]
        assert Counter(pods) == {"a": 2, "b": 2}
        with pytest.raises(OverloadedError, match=r"2 workers of model 'm'.*saturated") as refused:
            fleet.chooser.choose(prompt(10), model="m", request_id="full")
        assert refused.value.retry_after_s is not None and refused.value.retry_after_s > 0
        receipt = fleet.receipt("full")
        assert receipt.outcome == "overloaded" and receipt.pod is None
        assert {account.why for account in receipt.candidates} == {"it takes no more"}
        assert fleet.chooser.completed("0")
        assert fleet.chooser.choose(prompt(10), model="m").pod == pods[0]
        assert fleet.chooser.statistics().overloaded == 1


def test_work_above_the_limit_saturates_too() -> None:
    with SmallFleet(("a",), ChoosingConfig(saturation_tokens=100.0)) as fleet:
        fleet.chooser.choose(prompt(10), model="m")
        with pytest.raises(OverloadedError):
            fleet.chooser.choose(prompt(10, 2), model="m")


def test_each_rank_is_a_worker_of_its_own() -> None:
    with SmallFleet(()) as fleet:
        fleet.serve("a", serving=Serving(ranks=2))
        fleet.hold("a", 8, rank=1)
        choice = fleet.chooser.choose(prompt(10), model="m")
        assert (choice.pod, choice.rank, choice.cached_tokens) == ("a", 1, 128)
        assert fleet.chooser.choose(prompt(10, 2), model="m").rank == 0


def test_models_do_not_meet() -> None:
    with SmallFleet(()) as fleet:
        fleet.serve("a", "m")
        fleet.serve("b", "n")
        fleet.hold("b", 8, model="n")
        assert fleet.chooser.choose(prompt(10), model="m").pod == "a"
        assert fleet.chooser.choose(prompt(10), model="n").pod == "b"
        with pytest.raises(NoWorkerError, match="model 'o', got none: no pod serves it"):
            fleet.chooser.choose(prompt(10), model="o")
        assert fleet.chooser.statistics().no_worker == 1


def test_an_event_loop_gets_the_same_choices() -> None:
    with SmallFleet() as fleet:
        fleet.hold("b", 8)

        async def ask() -> tuple[str, str]:
            choice = await fleet.chooser.choose_async(prompt(10), model="m", reserve=False)
            ranking = await fleet.chooser.rank_async(prompt(10), model="m")
            return choice.pod, ranking.workers[0][0]

        assert asyncio.run(ask()) == ("b", "b")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"token_ids": []}, "token_ids: expected at least one"),
        ({"token_ids": [-1]}, "-1"),
        ({"token_ids": [1 << 40]}, "1099511627776"),
        ({"token_ids": [1], "prompt": "x"}, "expected one of"),
        ({"token_ids": [1], "output_tokens": -1}, "output_tokens"),
        ({"token_ids": [1], "output_tokens": True}, "output_tokens"),
        ({"token_ids": [1], "request_id": "x" * 5000}, "request_id"),
        ({"token_ids": [1], "tenant": 7}, "tenant"),
        ({"token_ids": [1], "pods": "a"}, "pods"),
        ({"token_ids": [1], "pods": [[]]}, "pods"),
        ({"token_ids": [1], "labels": {"zone": ["x"]}}, "labels"),
        ({"token_ids": [1], "lora": 3}, "lora"),
        ({"token_ids": [1], "colour": "red"}, "colour"),
    ],
)
def test_what_is_no_request_is_refused_and_leaves_nothing_behind(given: dict[str, object], says: str) -> None:
    with SmallFleet() as fleet:
        with pytest.raises(InputError, match=says):
            fleet.chooser.choose(model="m", **given)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="model"):
            fleet.chooser.choose([1])
        statistics = fleet.chooser.statistics()
        assert statistics.choices == statistics.in_flight == statistics.loads["reservations"] == 0
