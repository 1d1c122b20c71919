"""A writer's own numbers, and those that a server lends for them."""

from __future__ import annotations

from kvatlas.index.deltas import clear_lanes
from kvatlas.index.remote.fleet.renaming import Renaming


class Lender:
    def __init__(self, chunks: list[range | None]) -> None:
        self._chunks = chunks

    def __call__(self) -> range | None:
        return self._chunks.pop(0)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_an_own_number_keeps_its_lent_one() -> None:
    renaming = Renaming(Lender([range(32, 64), range(96, 128)]), 60.0, Clock())
    renaming.want([5, 0, 200])
    renaming.want([0, 5])
    assert [renaming.of(own) for own in (5, 0, 200, 1, 4000)] == [32, 33, 34, None, None]
    assert renaming.chunks == [1]
    renaming.want(range(300, 332))
    assert renaming.chunks == [1, 3]
    assert renaming.records(clear_lanes([5, 1])) == clear_lanes([32])


def test_what_is_let_go_of_rests_before_it_is_used_again() -> None:
    clock = Clock()
    renaming = Renaming(Lender([range(32), None, None]), 60.0, clock)
    renaming.want(range(32))
    assert sorted(renaming.renew()) == list(range(32))
    renaming.want([0])
    assert renaming.of(0) is None and renaming.refused == {0}
    clock.now_s = 60.0
    renaming.want([0])
    assert renaming.of(0) == 0 and not renaming.refused
