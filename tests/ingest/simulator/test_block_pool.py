"""The pool's order of handing out and evicting, by example and beside a list that is searched."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kvatlas.index.errors import ConfigError
from kvatlas.ingest.simulator.block_pool import NULL_BLOCK, BlockPool, OutOfBlocksError
from kvatlas.ingest.simulator.event_encoder import WireAllBlocksCleared, WireBlockRemoved, WireEvent


def digest(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "big")).digest()


def name(number: int) -> int:
    return int.from_bytes(digest(number)[-8:], "big")


def removed(number: int, group: int = 0) -> WireEvent:
    return WireBlockRemoved(block_hashes=[name(number)], medium="GPU", group_idx=group)


def filled(pool: BlockPool, *numbers: int) -> list[int]:
    """Blocks in use that hold these contents, in this order."""
    blocks = pool.allocate(len(numbers))
    for block, number in zip(blocks, numbers, strict=True):
        pool.hold(block, digest(number))
    return blocks


def test_null_block_is_never_handed_out() -> None:
    pool = BlockPool(4)
    assert pool.allocate(3) == [1, 2, 3]
    assert NULL_BLOCK not in {1, 2, 3}
    with pytest.raises(OutOfBlocksError, match="expected 1 free of 3, got 0"):
        pool.allocate(1)


def test_refused_allocation_changes_nothing() -> None:
    pool = BlockPool(4)
    pool.release(filled(pool, 1, 2))
    with pytest.raises(OutOfBlocksError):
        pool.allocate(4)
    assert pool.take_events() == []
    assert pool.find(digest(1)) is not None
    assert pool.free_blocks == 3


def test_freed_blocks_are_evicted_in_the_order_of_their_release() -> None:
    pool = BlockPool(4)
    a, b, c = filled(pool, 1, 2, 3)
    pool.release([c, b, a])
    assert pool.take_events() == []
    assert pool.allocate(2) == [c, b]
    assert pool.take_events() == [removed(3), removed(2)]
    assert pool.find(digest(1)) == a


def test_blocks_without_content_are_handed_out_before_all_others_last_freed_first() -> None:
    pool = BlockPool(8)
    held = filled(pool, 1, 2)
    partial = pool.allocate(2)
    pool.release(held)
    pool.release([partial[0]])
    pool.release([partial[1]])
    assert pool.allocate(2) == [partial[1], partial[0]]
    assert pool.allocate(4) == [5, 6, 7, held[0]]


def test_several_empty_blocks_freed_at_once_keep_their_order() -> None:
    pool = BlockPool(6)
    blocks = pool.allocate(3)
    pool.release(blocks[::-1])
    assert pool.allocate(3) == blocks[::-1]


def test_touched_block_is_not_evicted_and_becomes_the_most_recent_one_when_freed() -> None:
    pool = BlockPool(4)
    a, b, c = filled(pool, 1, 2, 3)
    pool.release([a, b, c])
    pool.touch([a])
    assert pool.allocate(1) == [b]
    pool.release([a])
    assert pool.allocate(2) == [c, a]


def test_block_of_two_users_stays_in_use_until_the_second_frees_it() -> None:
    pool = BlockPool(3)
    a, b = filled(pool, 1, 2)
    pool.touch([a])
    pool.release([b, a])
    assert pool.free_blocks == 1
    pool.release([a])
    assert pool.free_blocks == 2


def test_equal_content_is_held_in_each_copy_and_removed_as_often() -> None:
    pool = BlockPool(3)
    first, second = filled(pool, 1, 1)
    assert pool.find(digest(1)) == first
    assert list(pool.held()) == [(name(1), 0, 2)]
    pool.release([first, second])
    pool.allocate(1)
    assert pool.find(digest(1)) == second
    assert list(pool.held()) == [(name(1), 0, 1)]
    pool.allocate(1)
    assert pool.find(digest(1)) is None
    assert pool.take_events() == [removed(1), removed(1)]


def test_groups_hold_the_same_content_apart() -> None:
    pool = BlockPool(3)
    full, window = pool.allocate(2)
    pool.hold(full, digest(1), 0)
    pool.hold(window, digest(1), 1)
    assert (pool.find(digest(1), 0), pool.find(digest(1), 1)) == (full, window)
    pool.release([window, full])
    pool.allocate(1)
    assert pool.take_events() == [removed(1, group=1)]
    assert pool.find(digest(1), 0) == full


def test_clear_is_refused_while_a_block_is_in_use() -> None:
    pool = BlockPool(3)
    blocks = filled(pool, 1)
    assert not pool.clear()
    assert pool.take_events() == []
    pool.release(blocks)
    assert pool.clear()
    assert pool.take_events() == [WireAllBlocksCleared()]
    assert list(pool.held()) == []
    pool.allocate(2)
    assert pool.take_events() == [], "what was cleared is not evicted once more"


def test_whole_digests_are_announced_on_demand() -> None:
    pool = BlockPool(2, hashes_as_bytes=True)
    pool.release(filled(pool, 1))
    pool.allocate(1)
    assert pool.take_events() == [WireBlockRemoved(block_hashes=[digest(1)], medium="GPU", group_idx=0)]


def test_statistics_count_blocks_by_their_state() -> None:
    pool = BlockPool(5)
    kept = filled(pool, 1, 2)
    pool.release([kept[0]])
    pool.allocate(3)
    statistics = pool.statistics()
    assert (statistics.blocks, statistics.free) == (4, 0)
    assert (statistics.held, statistics.evictions) == (1, 1)


def test_pool_of_nothing_but_the_null_block_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected at least 2, got 1"):
        BlockPool(1)


class PoolBesideAList(RuleBasedStateMachine):
    """The model: a plain list is the free queue, and every question is answered by searching."""

    @initialize(blocks=st.integers(2, 12))
    def start(self, blocks: int) -> None:
        self.pool = BlockPool(blocks)
        self.queue = list(range(1, blocks))
        self.users: Counter[int] = Counter()
        self.content: dict[int, int] = {}
        self.since: dict[int, int] = {}
        self.clock = 0
        self.expected: list[WireEvent] = []

    def used(self) -> list[int]:
        return sorted(block for block, count in self.users.items() if count)

    @rule(count=st.integers(0, 5))
    def allocate(self, count: int) -> None:
        if count > len(self.queue):
            with pytest.raises(OutOfBlocksError):
                self.pool.allocate(count)
            return
        taken, self.queue = self.queue[:count], self.queue[count:]
        assert self.pool.allocate(count) == taken
        for block in taken:
            self.users[block] = 1
            if block in self.content:
                self.expected.append(removed(self.content.pop(block)))

    @precondition(lambda self: self.used())
    @rule(data=st.data(), number=st.integers(0, 4))
    def hold(self, data: st.DataObject, number: int) -> None:
        block = data.draw(st.sampled_from(self.used()))
        if block not in self.content:
            self.pool.hold(block, digest(number))
            self.content[block] = number
            self.clock += 1
            self.since[block] = self.clock

    @rule(number=st.integers(0, 4))
    def touch_what_is_found(self, number: int) -> None:
        block = self.pool.find(digest(number))
        copies = [b for b, held in self.content.items() if held == number]
        assert block == min(copies, key=lambda b: self.since[b], default=None)
        if block is not None:
            self.pool.touch([block, NULL_BLOCK])
            self.users[block] += 1
            if block in self.queue:
                self.queue.remove(block)

    @precondition(lambda self: self.used())
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        order = data.draw(st.permutations(self.used()))
        freed = order[: data.draw(st.integers(1, len(order)))]
        self.pool.release([NULL_BLOCK, *freed])
        self.users.subtract(freed)
        idle = [block for block in freed if not self.users[block]]
        self.queue = [b for b in idle if b not in self.content] + self.queue
        self.queue += [b for b in idle if b in self.content]

    @rule()
    def clear(self) -> None:
        assert self.pool.clear() == (not self.used())
        if not self.used():
            self.content.clear()
            self.expected.append(WireAllBlocksCleared())

    @invariant()
    def events_and_contents_agree(self) -> None:
        assert self.pool.take_events() == self.expected
        self.expected = []
        counts = Counter(self.content.values())
        assert {h: n for h, _, n in self.pool.held()} == {name(k): n for k, n in counts.items()}
        assert self.pool.free_blocks == len(self.queue)


TestPoolBesideAList = PoolBesideAList.TestCase
