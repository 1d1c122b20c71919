"""Blocks that a thousand lanes hold and more: nobody is left out."""

from __future__ import annotations

import pytest

from kvatlas.index.block_index import BlockIndex
from tests.index.backends.telling import blocks, cleared, enroll, held, runs, tell
from tests.models.table import ADD, REMOVE
from tests.models.world import GPU, chain

LANES = [*range(1_500), 40_000, 65_533, 65_534]


def test_a_block_may_be_held_by_a_thousand_lanes_and_more(index: BlockIndex) -> None:
    keys = chain(130, 90)
    enroll(index, *LANES)
    tell(index, *(record for lane in LANES for record in blocks(ADD, lane, keys[:1])))
    assert runs(index.match(keys)) == dict.fromkeys(LANES, 1)
    assert held(index, keys[:1]) == [dict.fromkeys(LANES, GPU)]
    gone = LANES[::3]
    tell(index, *(record for lane in gone for record in blocks(REMOVE, lane, keys[:1])))
    assert runs(index.match(keys)) == dict.fromkeys(sorted(set(LANES) - set(gone)), 1)


@pytest.mark.slow
def test_a_thousand_lanes_hold_as_much_of_a_chain_as_each_was_told(index: BlockIndex) -> None:
    keys = chain(200, 91)
    lanes = range(1_000)
    enroll(index, *lanes)
    tell(index, *(record for lane in lanes for record in blocks(ADD, lane, keys[: 1 + lane % 200])))
    assert runs(index.match(keys)) == {lane: 1 + lane % 200 for lane in lanes}
    tell(index, *(cleared(lane) for lane in lanes if lane % 2))
    assert runs(index.match(keys)) == {lane: 1 + lane % 200 for lane in lanes if lane % 2 == 0}
