"""Blocks that are taken back, as an engine's evictions do: from the tail, or anywhere."""

from __future__ import annotations

from kvatlas.index.block_index import BlockIndex
from tests.index.backends.telling import add, blocks, enroll, held, remove, runs, tell
from tests.models.table import ADD, REMOVE, Record
from tests.models.world import GPU, chain


def test_a_tail_that_goes_shortens_the_run(index: BlockIndex) -> None:
    enroll(index, 0)
    keys = chain(300, 30)
    add(index, 0, keys)
    for end in (299, 256, 128, 127, 1):
        remove(index, 0, keys, first=end)
        assert runs(index.match(keys)) == {0: end}
    remove(index, 0, keys)
    assert runs(index.match(keys)) == {}


def test_a_hole_ends_the_run_until_it_is_filled(index: BlockIndex) -> None:
    enroll(index, 0)
    keys = chain(300, 31)
    add(index, 0, keys)
    remove(index, 0, keys[:151], first=150)
    assert runs(index.match(keys)) == {0: 150}
    assert held(index, keys)[150:152] == [{}, {0: GPU}]
    add(index, 0, keys[:151], first=150)
    assert runs(index.match(keys)) == {0: 300}


def test_what_goes_from_one_lane_stays_in_others(index: BlockIndex) -> None:
    enroll(index, 0, 1, 2)
    keys = chain(140, 32)
    for lane in range(3):
        add(index, lane, keys)
    remove(index, 1, keys, first=10)
    assert runs(index.match(keys)) == {0: 140, 1: 10, 2: 140}


def test_removing_what_is_not_held_changes_nothing(index: BlockIndex) -> None:
    enroll(index, 0)
    keys = chain(20, 33)
    add(index, 0, keys)
    remove(index, 0, chain(20, 34))
    remove(index, 7, keys)
    remove(index, 0, keys, tier=2)
    assert held(index, keys) == [{0: GPU}] * 20


def test_the_order_within_a_buffer_counts(index: BlockIndex) -> None:
    keys = chain(12, 35)
    tell(index, *blocks(ADD, 0, keys), *blocks(REMOVE, 0, keys[:4]), *blocks(ADD, 0, keys[:2]))
    assert held(index, keys) == [{0: GPU}] * 2 + [{}] * 2 + [{0: GPU}] * 8
    first = int(keys[0])
    tell(index, Record(REMOVE, 0, GPU, (first,), first), Record(ADD, 1, GPU, (first,), first))
    assert held(index, keys[:1]) == [{1: GPU}]


def test_a_key_that_stands_twice_in_a_record_is_one_block(index: BlockIndex) -> None:
    first = int(chain(1, 36)[0])
    tell(index, Record(ADD, 0, GPU, (first, first), first))
    assert held(index, chain(1, 36)) == [{0: GPU}]
    tell(index, Record(REMOVE, 0, GPU, (first, first), first))
    assert held(index, chain(1, 36)) == [{}]
