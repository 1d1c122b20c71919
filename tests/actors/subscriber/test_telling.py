"""States that are told become better only after the blocks behind them have arrived."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.actors.subscriber.telling import Telling
from kvatlas.index.view import FleetPart, WorkerView
from kvatlas.ingest.stream.truth import STATES


class Delivery:
    """Everything up to `arrived` is with the shards."""

    def __init__(self) -> None:
        self.marked = self.arrived = 0

    def mark(self) -> int:
        self.marked += 1
        return self.marked

    def has_delivered(self, mark: int) -> bool:
        return self.arrived >= mark


def part(**states: str) -> FleetPart:
    workers = (
        WorkerView(number=n, pod=pod, rank=0, model="m", state=state)
        for n, (pod, state) in enumerate(states.items())
    )
    return FleetPart(block_sizes={"m": 16}, workers=tuple(workers))


def rank(state: str) -> int:
    """0 is best."""
    return [str(known) for known in STATES].index(state)


def states(told: FleetPart) -> dict[str, str]:
    return {worker.pod: worker.state for worker in told.workers}


def test_a_new_worker_is_blind_until_its_blocks_have_arrived() -> None:
    delivery = Delivery()
    telling = Telling(delivery)
    told = telling.of(part(a="EXACT"))
    assert states(told) == {"a": "BLIND"} and telling.holds_back
    assert "on its way" in told.workers[0].doubts[0]
    delivery.arrived = delivery.marked
    assert telling.of(part(a="EXACT")) == part(a="EXACT") and not telling.holds_back


def test_what_becomes_worse_is_told_at_once_and_what_becomes_better_later() -> None:
    delivery = Delivery()
    telling = Telling(delivery)
    telling.of(part(a="EXACT", b="PARTIAL"))
    delivery.arrived = delivery.marked
    telling.of(part(a="EXACT", b="PARTIAL"))
    assert states(telling.of(part(a="DEGRADED", b="EXACT"))) == {"a": "DEGRADED", "b": "PARTIAL"}
    delivery.arrived = delivery.marked
    assert states(telling.of(part(a="EXACT", b="EXACT"))) == {"a": "DEGRADED", "b": "EXACT"}
    delivery.arrived = delivery.marked
    assert states(telling.of(part(a="EXACT", b="EXACT"))) == {"a": "EXACT", "b": "EXACT"}


def test_a_state_that_changes_all_the_time_does_not_hold_others_back() -> None:
    delivery = Delivery()
    telling = Telling(delivery)
    for number in range(3):
        telling.of(part(a=STATES[number % 2], b="EXACT"))
        delivery.arrived = delivery.marked
    assert states(telling.of(part(a=STATES[1], b="EXACT")))["b"] == "EXACT"


@given(st.lists(st.tuples(st.sampled_from(STATES), st.sampled_from(STATES), st.booleans()), max_size=30))
def test_no_state_is_told_that_is_better_than_now_or_than_at_some_delivered_moment(
    changes: list[tuple[str, str, bool]],
) -> None:
    delivery = Delivery()
    telling = Telling(delivery)
    at_mark: dict[int, FleetPart] = {0: part(a="BLIND", b="BLIND")}
    for a, b, arrives in changes:
        now = part(a=a, b=b)
        marked = delivery.marked
        told = telling.of(now)
        if delivery.marked != marked:
            at_mark[delivery.marked] = now
        delivered = states(at_mark[max(mark for mark in at_mark if mark <= delivery.arrived)])
        for pod, state in states(told).items():
            assert rank(state) == max(rank(states(now)[pod]), rank(delivered[pod]))
        assert msgspec.structs.replace(told, workers=()) == msgspec.structs.replace(now, workers=())
        if arrives:
            delivery.arrived = delivery.marked
