"""Workers of several KV-cache groups, and stores: what counts is read off their lanes."""

from __future__ import annotations

from kvatlas.index.block_index import BlockIndex
from kvatlas.index.groups import Group, GroupKind
from kvatlas.index.shards import Matches
from tests.index.backends.telling import Keys, add, remove, runs
from tests.models.world import CPU, STORAGE, chain

BLOCK = 16


def reusable(index: BlockIndex, keys: Keys) -> Matches:
    tokens = len(keys) * BLOCK + 1
    return index.match(keys, prompt_tokens=tokens, block_size_tokens=BLOCK, strategy="reusable")


def test_a_block_counts_where_every_group_holds_it(index: BlockIndex) -> None:
    keys = chain(300, 50)
    index.roster.set(0, [10, 11], [])
    add(index, 10, keys)
    assert runs(index.match(keys)) == {}
    add(index, 11, keys[:140])
    assert runs(index.match(keys)) == {0: 140}
    assert runs(reusable(index, keys)) == {0: 140}
    remove(index, 10, keys, first=20)
    assert runs(index.match(keys)) == {0: 20}


def test_a_window_needs_only_the_blocks_before_the_end(index: BlockIndex) -> None:
    keys = chain(200, 51)
    window = Group(lane=21, kind=GroupKind.SLIDING_WINDOW, window_tokens=4 * BLOCK)
    index.roster.set(0, [20, window], [])
    add(index, 20, keys)
    add(index, 21, keys[:150], first=146)
    assert runs(reusable(index, keys)) == {0: 150}
    remove(index, 21, keys[:147], first=146)
    assert runs(reusable(index, keys)) == {}


def test_a_stores_blocks_count_for_the_workers_attached_to_it(index: BlockIndex) -> None:
    keys = chain(160, 52)
    index.roster.set(0, [30], [90])
    index.roster.set(1, [31], [])
    add(index, 30, keys[:40])
    add(index, 31, keys[:40])
    add(index, 90, keys, STORAGE)
    assert runs(index.match(keys)) == {0: 160, 1: 40}
    assert runs(reusable(index, keys)) == {0: 160, 1: 40}
    remove(index, 90, keys, STORAGE, first=100)
    assert runs(index.match(keys)) == {0: 100, 1: 40}


def test_what_goes_from_one_tier_and_group_leaves_the_others(index: BlockIndex) -> None:
    keys = chain(60, 53)
    index.roster.set(0, [40, 41], [])
    for lane in (40, 41):
        add(index, lane, keys)
        add(index, lane, keys, CPU)
    remove(index, 41, keys, first=30)
    assert runs(index.match(keys)) == {0: 60}, "its copies in the cpu tier are there still"
    remove(index, 41, keys, CPU, first=45)
    assert runs(index.match(keys)) == {0: 45}
