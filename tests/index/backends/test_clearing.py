"""Lanes that are emptied: at once, alone, and fit to be used again."""

from __future__ import annotations

import pytest

from kvatlas.index.block_index import BlockIndex
from tests.index.backends.telling import add, blocks, cleared, enroll, held, runs, tell
from tests.models.table import ADD
from tests.models.world import CPU, GPU, chain


def test_a_removed_lane_holds_nothing_and_others_all_that_they_held(index: BlockIndex) -> None:
    enroll(index, 0, 1)
    keys = chain(300, 60)
    for lane in (0, 1):
        add(index, lane, keys)
        add(index, lane, keys, CPU)
    index.remove_lane(0)
    assert runs(index.match(keys)) == {1: 300}
    assert held(index, keys) == [{1: GPU | CPU}] * 300


def test_a_removed_lane_can_be_used_again(index: BlockIndex) -> None:
    enroll(index, 0)
    old, new = chain(150, 61), chain(150, 62)
    for _ in range(3):
        add(index, 0, old)
        index.remove_lane(0)
        add(index, 0, new)
        assert runs(index.match(old)) == {}
        assert runs(index.match(new)) == {0: 150}
        index.remove_lane(0)


def test_removing_a_lane_that_holds_nothing_is_fine(index: BlockIndex) -> None:
    index.remove_lane(5)
    index.remove_lane(65_534)
    add(index, 5, chain(3, 63))
    assert held(index, chain(3, 63)) == [{5: GPU}] * 3


def test_a_clear_stands_in_the_order_of_its_buffer(index: BlockIndex) -> None:
    enroll(index, 0, 1)
    keys = chain(200, 64)
    tell(
        index, *blocks(ADD, 0, keys), *blocks(ADD, 1, keys), cleared(0), *blocks(ADD, 0, keys[:140], first=0)
    )
    assert runs(index.match(keys)) == {0: 140, 1: 200}
    tell(index, cleared(1), cleared(1), *blocks(ADD, 0, keys), cleared(0))
    assert runs(index.match(keys)) == {}


@pytest.mark.slow
def test_clears_of_many_lanes_again_and_again_leave_nothing_behind(index: BlockIndex) -> None:
    keys = chain(130, 65)
    enroll(index, *range(20))
    for turn in range(15):
        for lane in range(20):
            add(index, lane, keys[: 1 + (turn * 7 + lane) % 130])
        tell(index, *(cleared(lane) for lane in range(19)))
        assert runs(index.match(keys)) == {19: 1 + (turn * 7 + 19) % 130}
        index.remove_lane(19)
    assert held(index, keys) == [{}] * 130
