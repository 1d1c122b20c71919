"""What becomes of requests after their choice: ends, moves, duplicates, silence, choices made elsewhere."""

from __future__ import annotations

import pytest

from kvatlas.index.choosing.ask import Ask
from kvatlas.index.choosing.serving import Serving
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.errors import InputError, NoWorkerError
from tests.index.choosing.small_fleet import SmallFleet, prompt
from tests.ingest.plain_batches import stored


def test_a_request_counts_until_it_ends() -> None:
    with SmallFleet(("a",)) as fleet:
        fleet.hold("a", 4)
        fleet.chooser.choose(prompt(10), model="m", request_id="x", output_tokens=50)
        assert fleet.load("a") == (161 - 64, 161 + 50, 1)
        assert fleet.chooser.prefill_done("x")
        assert fleet.load("a") == (0, 211, 1)
        assert fleet.chooser.produced("x", 70)
        assert fleet.load("a") == (0, 231, 1)
        assert fleet.chooser.completed("x", cached_tokens=64, output_tokens=80)
        assert fleet.load("a") == (0, 0, 0)
        assert not fleet.chooser.completed("x") and not fleet.chooser.failed("x")
        assert not fleet.chooser.prefill_done("x") and not fleet.chooser.produced("x", 1)
        statistics = fleet.chooser.statistics()
        assert (statistics.completed, statistics.unknown_requests, statistics.in_flight) == (1, 4, 0)
        assert (statistics.predicted_tokens, statistics.reused_tokens) == (64, 64)


def test_what_failed_is_not_expected_to_be_cached() -> None:
    with SmallFleet(("a", "b")) as fleet:
        fleet.chooser.choose(prompt(10), model="m", request_id="x", pods=["a"])
        assert fleet.chooser.failed("x", "connection refused")
        assert fleet.load("a") == (0, 0, 0)
        assert fleet.chooser.choose(prompt(10), model="m", pods=["a"], reserve=False).cached_tokens == 0
        receipt = fleet.receipt("x")
        assert (receipt.outcome, receipt.outcome_says) == ("failed", "connection refused")


def test_what_failed_after_its_prefill_is_cached_all_the_same() -> None:
    with SmallFleet(("a", "b")) as fleet:
        fleet.chooser.choose(prompt(10), model="m", request_id="x", pods=["a"])
        fleet.chooser.produced("x", 3)
        assert fleet.chooser.failed("x")
        assert fleet.chooser.choose(prompt(10), model="m", reserve=False).pod == "a"


def test_two_requests_of_one_id_both_count_and_the_oldest_ends_first() -> None:
    with SmallFleet(("a",)) as fleet:
        fleet.chooser.choose(prompt(10), model="m", request_id="x", output_tokens=0)
        fleet.chooser.choose(prompt(20, 1), model="m", request_id="x", output_tokens=0)
        assert fleet.load("a") == (161 + 321, 161 + 321, 2)
        assert fleet.chooser.prefill_done("x") and fleet.load("a")[0] == 321
        assert fleet.chooser.prefill_done("x") and fleet.load("a")[0] == 0
        assert not fleet.chooser.prefill_done("x")
        assert fleet.chooser.completed("x") and fleet.load("a") == (0, 321, 1)
        assert fleet.chooser.completed("x") and fleet.load("a") == (0, 0, 0)


def test_a_request_that_cannot_be_delivered_goes_to_the_next_best_with_its_load() -> None:
    with SmallFleet() as fleet:
        fleet.hold("a", 8)
        fleet.hold("b", 4)
        first = fleet.chooser.choose(prompt(10), model="m", request_id="x", session="s")
        second = fleet.chooser.another("x", without=["a"])
        assert (first.pod, second.pod, second.cached_tokens) == ("a", "b", 64)
        assert second.request_id == "x" and second.reason == "not a" and second.is_reserved
        assert fleet.load("a") == (0, 0, 0) and fleet.load("b")[2] == 1
        assert fleet.chooser.another("x", without=["a", "b"]).pod == "c"
        with pytest.raises(NoWorkerError, match="it was left out"):
            fleet.chooser.another("x", without=["a", "b", "c"])
        assert not fleet.chooser.completed("x")
        assert fleet.chooser.statistics().moved == 3 and fleet.chooser.statistics().in_flight == 0
        with pytest.raises(InputError, match="expected one in flight, got 'x'"):
            fleet.chooser.another("x", without=[])


def test_another_is_found_also_where_the_receipt_is_gone() -> None:
    with SmallFleet(config=ChoosingConfig(receipts_max=0)) as fleet:
        fleet.hold("a", 8)
        fleet.chooser.choose(prompt(10), model="m", request_id="x")
        choice = fleet.chooser.another("x", without=["a"])
        assert choice.pod in "bc" and "not kept so long" in choice.reason
        assert choice.prompt_tokens == 161 and fleet.chooser.completed("x")


def test_requests_that_nobody_mentions_expire_and_mentions_keep_them() -> None:
    with SmallFleet(("a",), ChoosingConfig(reservation_s=10.0)) as fleet:
        fleet.chooser.choose(prompt(4), model="m", request_id="silent")
        fleet.chooser.choose(prompt(4), model="m", request_id="spoken")
        fleet.chooser.choose(prompt(4), model="m", request_id="loose", reserve=False)
        fleet.clock.now_s += 8
        fleet.chooser.produced("spoken", 1)
        fleet.clock.now_s += 4
        fleet.chooser.choose(prompt(4), model="m", request_id="later")
        assert fleet.load("a")[2] == 2 and fleet.chooser.statistics().expired == 2
        assert fleet.receipt("silent").outcome == "expired"
        assert not fleet.chooser.completed("silent") and not fleet.chooser.routed("loose")
        fleet.clock.now_s += 11
        fleet.chooser.tidy()
        assert fleet.load("a")[2] == 0 and not fleet.chooser.completed("later")


def test_mentions_of_any_kind_keep_a_request() -> None:
    with SmallFleet(("a",), ChoosingConfig(reservation_s=10.0)) as fleet:
        fleet.chooser.choose(prompt(4), model="m", request_id="spoken")
        fleet.chooser.choose(prompt(4), model="m", request_id="later", reserve=False)
        fleet.clock.now_s += 8
        assert fleet.chooser.prefill_done("spoken") and fleet.chooser.routed("later")
        fleet.clock.now_s += 8
        fleet.chooser.tidy()
        assert fleet.chooser.completed("spoken") and fleet.chooser.completed("later")


def test_a_ranking_reserves_nothing_until_it_is_said_where_the_request_went() -> None:
    with SmallFleet() as fleet:
        fleet.hold("a", 8)
        fleet.hold("b", 4)
        ranking = fleet.chooser.rank(prompt(10), model="m", request_id="x")
        assert ranking.workers == [("a", 0), ("b", 0), ("c", 0)] and ranking.choice.pod == "a"
        assert not ranking.choice.is_reserved and sum(fleet.load(pod)[2] for pod in "abc") == 0
        assert fleet.chooser.routed("x", "b", 0)
        assert fleet.load("b") == (161 - 64, 161 + 256, 1) and fleet.load("a")[2] == 0
        assert not fleet.chooser.routed("x")
        assert fleet.receipt("x").sent_pod == "b" and fleet.receipt("x").pod == "a"
        assert fleet.chooser.choose(prompt(10), model="m", pods=["b"], reserve=False).cached_tokens == 160
        assert fleet.chooser.completed("x") and fleet.load("b")[2] == 0


def test_a_request_that_is_said_to_go_elsewhere_moves_there_with_its_receipt() -> None:
    with SmallFleet() as fleet:
        fleet.hold("a", 8)
        fleet.hold("b", 4)
        fleet.chooser.rank(prompt(10), model="m", request_id="x")
        assert fleet.chooser.routed("x", "a") and fleet.chooser.routed("x", "a", 0)
        assert fleet.load("a") == (161 - 128, 161 + 256, 1)
        assert fleet.chooser.routed("x", "b")
        assert fleet.load("b") == (161 - 64, 161 + 256, 1) and fleet.load("a") == (0, 0, 0)
        # "a" is not expected to get the prompt's other blocks any more, "b" is.
        held = {pod: fleet.chooser.choose(prompt(10), model="m", pods=[pod], reserve=False) for pod in "ab"}
        assert (held["a"].cached_tokens, held["b"].cached_tokens) == (128, 160)
        assert fleet.chooser.statistics().moved == 1
        assert fleet.chooser.completed("x", cached_tokens=64) and fleet.load("b") == (0, 0, 0)
        receipt = fleet.receipt("x")
        assert (receipt.pod, receipt.sent_pod, receipt.actual_cached_tokens) == ("a", "b", 64)
        assert receipt.outcome == "completed" and fleet.chooser.statistics().reused_tokens == 64
        assert not fleet.chooser.routed("x", "c")


def test_a_request_that_moves_back_went_to_the_one_chosen() -> None:
    with SmallFleet() as fleet:
        choice = fleet.chooser.choose(prompt(10), model="m", request_id="x")
        other = "a" if choice.pod != "a" else "b"
        for pod in (other, choice.pod):
            assert fleet.chooser.routed("x", pod)
            assert [fleet.load(name)[2] for name in "abc"] == [int(name == pod) for name in "abc"]
        assert fleet.receipt("x").sent_pod is None
        fleet.chooser.prefill_done("x")
        assert fleet.chooser.routed("x", other) and fleet.load(other)[0] > 0, "it is prefilled anew there"
        assert fleet.chooser.failed("x") and fleet.load(other) == (0, 0, 0)


def test_a_request_that_was_chosen_elsewhere_moves_too() -> None:
    with SmallFleet(("a", "b")) as fleet:
        assert fleet.chooser.adopt("x", "a", 0, model="m", prompt_tokens=100, output_tokens=5)
        assert fleet.chooser.routed("x", "b")
        assert fleet.load("a") == (0, 0, 0) and fleet.load("b")[0] == 100


def test_what_a_ranked_request_loads_teaches_how_fast_its_worker_loads() -> None:
    with SmallFleet(("a",), ChoosingConfig()) as fleet:
        tokens, blocks = prompt(200), list(range(1, 151))
        fleet.say("a", stored(blocks, tokens[: 150 * 16]))
        fleet.say("a", {"type": "BlockStored", "block_hashes": blocks, "medium": "CPU"})
        fleet.say("a", {"type": "BlockRemoved", "block_hashes": blocks})
        for number in range(10):
            long = prompt(100, family=number + 1) if number < 5 else tokens
            fleet.chooser.rank(long, model="m", request_id="x")
            fleet.chooser.routed("x", "a", 0)
            fleet.clock.now_s += 5
            fleet.chooser.prefill_done("x")
            fleet.chooser.completed("x")
            fleet.clock.now_s += 10  # nothing is expected of it beyond what its events have said
        assert fleet.chooser.statistics().loads["learned_loads"] == 5


def test_where_only_the_pod_is_known_its_best_rank_counts() -> None:
    with SmallFleet(()) as fleet:
        for pod in "ab":
            fleet.serve(pod, serving=Serving(ranks=2))
        fleet.hold("a", 8)
        fleet.hold("b", 4, rank=1)
        fleet.chooser.rank(prompt(10), model="m", request_id="x")
        assert fleet.chooser.routed("x", "b")
        assert fleet.load("b", 1)[2] == 1


def test_ranking_again_replaces_what_was_not_routed() -> None:
    with SmallFleet() as fleet:
        for _ in range(5):
            fleet.chooser.rank(prompt(10), model="m", request_id="x")
        assert fleet.chooser.statistics().in_flight == 1
        assert fleet.chooser.routed("x") and not fleet.chooser.routed("x")
        fleet.chooser.rank(prompt(10), model="m", request_id="x")
        assert fleet.chooser.statistics().in_flight == 2  # the first is on its way


def test_a_choice_made_elsewhere_counts_too() -> None:
    with SmallFleet(("a",)) as fleet:
        assert fleet.chooser.adopt(
            "x", "a", 0, model="m", prompt_tokens=100, cached_tokens=40, output_tokens=5
        )
        assert fleet.load("a") == (60, 105, 1)
        assert not fleet.chooser.adopt("y", "nobody", 0, model="m", prompt_tokens=100)
        with pytest.raises(InputError, match="prompt_tokens"):
            fleet.chooser.adopt("y", "a", 0, model="m", prompt_tokens=-1)
        with pytest.raises(InputError, match="expected one in flight"):
            fleet.chooser.another("x", without=["a"])
        assert fleet.chooser.completed("x") and fleet.load("a") == (0, 0, 0)


def test_at_the_bound_requests_are_sent_and_counted_but_not_reserved() -> None:
    with SmallFleet(("a",), ChoosingConfig(reservations_max=2)) as fleet:
        reserved = [fleet.chooser.choose(prompt(4), model="m").is_reserved for _ in range(3)]
        assert reserved == [True, True, False] and fleet.load("a")[2] == 2
        statistics = fleet.chooser.statistics()
        assert (statistics.choices, statistics.unreserved, statistics.untracked) == (3, 1, 1)
        assert (statistics.in_flight, statistics.loads["reservations"]) == (2, 2)
        assert not fleet.chooser.adopt("x", "a", 0, model="m", prompt_tokens=1)


def test_requests_that_wait_to_be_routed_take_no_reservation_of_others() -> None:
    with SmallFleet(("a",), ChoosingConfig(reservations_max=2)) as fleet:
        for name in ("x", "y"):
            fleet.chooser.choose(prompt(4), ask=Ask(model="m", request_id=name, reserve=False))
        choice = fleet.chooser.choose(prompt(4), model="m", request_id="z")
        assert not choice.is_reserved  # nobody follows it, so nobody could end it
        assert fleet.chooser.statistics().loads["reservations"] == 0
