"""Blocks that are told are held, and matched from the start of their chain."""

from __future__ import annotations

import numpy as np
import pytest

from kvatlas.index.block_index import BlockIndex
from tests.index.backends.telling import add, blocks, enroll, held, remove, runs, tell
from tests.models.table import ADD, CLOSE, OPEN, Record
from tests.models.world import GPU, chain


def test_an_empty_index_holds_nothing(index: BlockIndex) -> None:
    enroll(index, 0)
    keys = chain(300, 1)
    assert runs(index.match(keys)) == {}
    assert held(index, keys) == [{}] * 300
    assert runs(index.match(keys[:0])) == {}
    assert held(index, keys[:0]) == []


@pytest.mark.parametrize("n_blocks", [1, 127, 128, 129, 300])
def test_a_chain_is_held_as_far_as_it_was_told(index: BlockIndex, n_blocks: int) -> None:
    enroll(index, 3)
    keys = chain(400, 2)
    add(index, 3, keys[:n_blocks])
    assert runs(index.match(keys)) == {3: n_blocks}
    assert runs(index.match(keys[: n_blocks - 1])) == ({3: n_blocks - 1} if n_blocks > 1 else {})
    assert held(index, keys) == [{3: GPU}] * n_blocks + [{}] * (400 - n_blocks)


def test_telling_nothing_changes_nothing(index: BlockIndex) -> None:
    enroll(index, 0)
    keys = chain(20, 3)
    add(index, 0, keys)
    index.apply([b""] * index.n_shards)
    tell(index, Record(ADD, 1, GPU, (), int(keys[0])))
    assert held(index, keys) == [{0: GPU}] * 20


def test_what_is_added_twice_is_held_once(index: BlockIndex) -> None:
    enroll(index, 0)
    keys = chain(200, 4)
    add(index, 0, keys)
    add(index, 0, keys)
    tell(index, *blocks(ADD, 0, keys), *blocks(ADD, 0, keys))
    assert held(index, keys) == [{0: GPU}] * 200
    remove(index, 0, keys)
    assert held(index, keys) == [{}] * 200


def test_many_lanes_hold_as_much_of_a_chain_as_each_was_told(index: BlockIndex) -> None:
    keys = chain(520, 5)
    lengths = {lane: (lane * 37) % 521 for lane in range(1, 40)}
    enroll(index, *lengths)
    for lane, length in lengths.items():
        add(index, lane, keys[:length])
    assert runs(index.match(keys)) == {lane: length for lane, length in lengths.items() if length}


def test_chains_that_part_ways_are_told_apart(index: BlockIndex) -> None:
    stem, end = chain(140, 6), chain(60, 7)
    forked = np.concatenate([stem, end])
    other = np.concatenate([stem, chain(60, 8)])
    enroll(index, 0, 1)
    add(index, 0, forked)
    add(index, 1, other)
    assert runs(index.match(forked)) == {0: 200, 1: 140}
    assert runs(index.match(other)) == {0: 140, 1: 200}


def test_a_chain_whose_start_is_not_held_is_not_matched(index: BlockIndex) -> None:
    enroll(index, 0)
    keys = chain(200, 9)
    add(index, 0, keys, first=1)
    assert runs(index.match(keys)) == {}
    assert held(index, keys) == [{}] + [{0: GPU}] * 199
    add(index, 0, keys[:1])
    assert runs(index.match(keys)) == {0: 200}


def test_lanes_that_say_they_are_closed_are_matched_as_others(index: BlockIndex) -> None:
    enroll(index, 0, 1)
    keys = chain(520, 10)
    add(index, 0, keys[:390])
    add(index, 1, keys[:390])
    tell(index, Record(CLOSE, 0, 0))
    assert runs(index.match(keys)) == {0: 390, 1: 390}
    tell(index, Record(OPEN, 0, 0))
    remove(index, 0, keys[:201], first=200)
    assert runs(index.match(keys)) == {0: 200, 1: 390}


def test_a_new_lane_is_filled_and_said_to_be_closed_in_one_buffer(index: BlockIndex) -> None:
    enroll(index, 7)
    keys = chain(130, 11)
    tell(index, *blocks(ADD, 7, keys), Record(CLOSE, 7, 0))
    assert runs(index.match(keys)) == {7: 130}
    tell(index, Record(CLOSE, 8, 0), Record(OPEN, 9, 0))
    assert held(index, keys[:1]) == [{7: GPU}]
