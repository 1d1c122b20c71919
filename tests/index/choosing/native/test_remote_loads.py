"""What other routers say they have sent, and what this one tells them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.index.choosing.native.fleets import SmallFleet

pytestmark = pytest.mark.native

IDLE = (0.0, 0.0, 0)


def tell(
    fleet: SmallFleet, router: int, told: dict[int, tuple[float, float, int]], *, whole: bool = False
) -> None:
    fleet.book.set_remote(
        router,
        np.array(list(told), np.uint32),
        np.array([prefill for prefill, _, _ in told.values()], np.float64),
        np.array([decode for _, decode, _ in told.values()], np.float64),
        np.array([requests for _, _, requests in told.values()], np.uint32),
        whole,
    )


def test_what_others_have_sent_counts_as_ones_own() -> None:
    fleet = SmallFleet(3)
    tell(fleet, 1, {0: (100, 50, 2)})
    tell(fleet, 2, {0: (10, 5, 1), 1: (7, 0, 1)})
    assert fleet.loads() == [(110, 55, 3), (7, 0, 1), IDLE]
    assert fleet.choose().row == 2


def test_a_router_replaces_what_it_has_told_and_whole_replaces_all_of_it() -> None:
    fleet = SmallFleet(3)
    tell(fleet, 1, {0: (100, 50, 2), 1: (9, 9, 9)})
    tell(fleet, 1, {0: (1, 2, 3)})
    assert fleet.loads() == [(1, 2, 3), (9, 9, 9), IDLE]
    tell(fleet, 1, {2: (4, 4, 4)}, whole=True)
    assert fleet.loads() == [IDLE, IDLE, (4, 4, 4)]


def test_a_router_that_is_dropped_takes_its_loads_along_and_no_others() -> None:
    fleet = SmallFleet(1)
    tell(fleet, 2**63, {0: (1, 1, 1)})
    tell(fleet, 2, {0: (2, 2, 2)})
    fleet.book.drop_remote(2**63)
    fleet.book.drop_remote(77)
    assert fleet.loads() == [(2, 2, 2)]
    assert fleet.book.statistics()["routers"] == 1


def test_only_sums_that_changed_are_told_and_nothing_twice() -> None:
    fleet = SmallFleet(3)
    request_id = fleet.give(1, 100, output_tokens=10)
    assert [column.tolist() for column in fleet.book.changed()] == [[1], [100], [110], [1]]
    assert [column.tolist() for column in fleet.book.changed()] == [[], [], [], []]
    fleet.book.prefill_done(request_id, 1.0)
    fleet.book.completed(request_id, 2.0)
    assert [column.tolist() for column in fleet.book.changed()] == [[1], [0], [0], [0]]
    assert len(fleet.book.own()[0]) == 0


def test_what_others_have_told_is_not_told_on() -> None:
    fleet = SmallFleet(1)
    tell(fleet, 1, {0: (1, 1, 1)})
    assert len(fleet.book.changed()[0]) == len(fleet.book.own()[0]) == 0


def test_sums_of_slots_that_are_nobodys_or_left_do_not_stay() -> None:
    fleet = SmallFleet(2)
    tell(fleet, 1, {0: (1, 1, 1), 900: (5, 5, 5)})
    fleet.book.forget("pod0")
    tell(fleet, 1, {0: (7, 7, 7)})
    assert fleet.loads() == [IDLE, IDLE]


def test_more_routers_than_there_may_be_are_refused_and_counted() -> None:
    fleet = SmallFleet(1)
    for router in range(1025):
        tell(fleet, router, {0: (1, 0, 1)})
    assert fleet.loads() == [(1024, 0, 1024)]
    assert fleet.book.statistics()["refused_routers"] == 1
    tell(fleet, 3, {}, whole=True)
    assert fleet.loads() == [(1023, 0, 1023)]
