"""Who may serve a request: adapters, labels, roles, drained pods, ranks that are heard or only described."""

from __future__ import annotations

import pytest

from kvatlas.index.choosing.ask import Ask
from kvatlas.index.choosing.serving import Serving
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.errors import NoWorkerError
from tests.index.choosing.small_fleet import SmallFleet, prompt


def reachable(fleet: SmallFleet, ask: Ask) -> set[tuple[str, int]]:
    """All that a request might be sent to."""
    return set(fleet.chooser.rank(prompt(4), ask=ask).workers)


def test_an_adapter_is_served_by_pods_that_have_it_or_do_not_say() -> None:
    with SmallFleet(()) as fleet:
        fleet.serve("has", serving=Serving(adapters=("x",)))
        fleet.serve("has_not", serving=Serving(adapters=()))
        fleet.serve("unknown")
        assert reachable(fleet, Ask(model="m", lora="x")) == {("has", 0), ("unknown", 0)}
        assert len(reachable(fleet, Ask(model="m"))) == 3
        with pytest.raises(NoWorkerError, match="has: it does not serve the adapter 'y'"):
            fleet.chooser.choose(prompt(4), model="m", lora="y", pods=["has"])


def test_labels_must_be_equal_and_near_ones_had_better_be() -> None:
    with SmallFleet((), ChoosingConfig(near_tokens=100.0)) as fleet:
        fleet.serve("east", labels={"zone": "e", "gpu": "h"})
        fleet.serve("west", labels={"zone": "w", "gpu": "h"})
        assert reachable(fleet, Ask(model="m", labels={"zone": "e"})) == {("east", 0)}
        with pytest.raises(NoWorkerError, match="east: its label 'gpu' is not 'a'; west: its label 'zone'"):
            reachable(fleet, Ask(model="m", labels={"zone": "e", "gpu": "a"}))
        near = Ask(model="m", near={"zone": "e"})
        assert all(fleet.chooser.choose(prompt(4), ask=near, reserve=False).pod == "east" for _ in range(20))
        fleet.hold("west", 6, family=1)
        assert fleet.chooser.choose(prompt(6, 1), ask=near, reserve=False).pod == "east"  # 96 tokens
        fleet.hold("west", 7, family=2)
        assert fleet.chooser.choose(prompt(7, 2), ask=near, reserve=False).pod == "west"  # 112


def test_only_the_pods_asked_for_are_candidates_and_receipts_name_the_others() -> None:
    with SmallFleet() as fleet:
        assert reachable(fleet, Ask(model="m", pods=frozenset({"a", "nobody"}))) == {("a", 0)}
        choice = fleet.chooser.choose(prompt(4), model="m", pods=["b"])
        receipt = fleet.receipt(choice.request_id)
        assert choice.pod == "b" and receipt.n_candidates == 1
        assert receipt.excluded == dict.fromkeys("ac", "it is none of the pods asked for")


def test_a_draining_pod_gets_nothing_new() -> None:
    with SmallFleet(("a", "b")) as fleet:
        fleet.hold("a", 8)
        assert fleet.chooser.choose(prompt(8), model="m").pod == "a"
        fleet.serve("a", serving=Serving(is_draining=True), speaks=False)
        assert fleet.chooser.choose(prompt(8), model="m").pod == "b"


def test_a_described_pod_that_says_nothing_can_be_chosen_and_is_blind() -> None:
    with SmallFleet(("a",)) as fleet:
        fleet.serve("quiet", serving=Serving(ranks=2), speaks=False)
        assert reachable(fleet, Ask(model="m")) == {("a", 0), ("quiet", 0), ("quiet", 1)}
        assert fleet.chooser.choose(prompt(4), model="m", pods=["quiet"]).truth == "BLIND"


def test_a_pod_whose_one_rank_is_number_three_has_no_other() -> None:
    with SmallFleet(()) as fleet:
        fleet.serve("replica", speaks=False)
        fleet.hold("replica", 4, rank=3)
        assert reachable(fleet, Ask(model="m")) == {("replica", 3)}
        fleet.serve("replica", serving=Serving(ranks=3), speaks=False)
        assert reachable(fleet, Ask(model="m")) == {("replica", 3), ("replica", 0), ("replica", 1)}


def test_candidates_are_made_once_for_each_filter_and_state_of_the_fleet() -> None:
    with SmallFleet() as fleet:
        for _ in range(5):
            fleet.chooser.choose(prompt(4), model="m")
            fleet.chooser.choose(prompt(4), model="m", pods=["a"])
        assert fleet.chooser.statistics().candidate_sets_made == 2
        fleet.serve("d")
        assert ("d", 0) in reachable(fleet, Ask(model="m"))
        assert fleet.chooser.statistics().candidate_sets_made == 3


def test_a_pod_that_has_left_is_forgotten_after_a_while_and_its_load_with_it() -> None:
    with SmallFleet(("a", "b")) as fleet:
        fleet.chooser.choose(prompt(4), model="m", pods=["a"], request_id="x")
        fleet.atlas.set_serving("a", None)
        fleet.atlas.remove_pod("a")
        for _ in range(3):  # a view that comes late must not end anything
            fleet.clock.now_s += 2
            assert fleet.chooser.choose(prompt(4), model="m", reserve=False).pod == "b"
        assert fleet.chooser.statistics().loads["reservations"] == 1
        fleet.clock.now_s += 10
        fleet.chooser.choose(prompt(4), model="m", reserve=False)
        statistics = fleet.chooser.statistics()
        assert statistics.loads["reservations"] == 0 and statistics.loads["slots"] == 1
        assert fleet.chooser.completed("x")  # its receipt still learns of it
        assert fleet.receipt("x").outcome == "completed"
