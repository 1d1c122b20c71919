"""A table at its byte budget: what it keeps, what it counts, and that it never takes more."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import count

import numpy as np
import numpy.typing as npt
import pytest

from kvatlas.index._native import Table
from kvatlas.index.shards import ShardedIndex
from tests.models.table import ADD, CLEAR_LANE, REMOVE, NaiveTable, Record, delta

pytestmark = pytest.mark.native

BUDGET = 4 << 20
SEGMENT = 128
Keys = npt.NDArray[np.uint64]


def segment(number: int, n: int = SEGMENT) -> Keys:
    """Keys of the number-th segment."""
    numbers = np.arange(1, n + 1, dtype=np.uint64) + np.uint64(number * SEGMENT)
    keys: Keys = numbers * np.uint64(0x9E3779B97F4A7C15)
    return keys


def packed(op: int, lane: int, keys: Keys, segment_key: int | None = None) -> bytes:
    head = struct.pack("<BBHIIIQ", op, 1, 0, len(keys), lane, 0, segment_key or int(keys[0]))
    return head + keys.tobytes()


def checked(table: Table) -> dict[str, int]:
    statistics: dict[str, int] = table.statistics()
    assert statistics["bytes"] <= statistics["bytes_max"], statistics
    return statistics


@pytest.fixture
def index() -> Iterator[ShardedIndex]:
    index = ShardedIndex(table_bytes_max=BUDGET)
    index.roster.set(0, [0], [])
    yield index
    index.close()


def matched(index: ShardedIndex, keys: Keys) -> int:
    return int(index.match(keys).blocks.max(initial=0))


@pytest.mark.slow
def test_segments_in_use_survive_a_scan_that_is_many_times_the_budget(index: ShardedIndex) -> None:
    hot, scan = range(60), range(1_000, 9_000)
    for number in hot:
        index.apply([packed(ADD, 0, segment(number))])
        matched(index, segment(number))
    for at, number in enumerate(scan):
        index.apply([packed(ADD, 0, segment(number))])
        checked(index.tables[0])
        if at % 5 == 0:
            matched(index, segment(hot[at // 5 % len(hot)]))
    assert [matched(index, segment(number)) for number in hot] == [SEGMENT] * len(hot)
    statistics = checked(index.tables[0])
    assert statistics["dropped_entries"] > 5_000 * SEGMENT
    assert statistics["dropped_unused"] > 0.98 * statistics["dropped_entries"], "nobody asked for what went"


@pytest.mark.slow
def test_a_segment_that_was_looked_up_often_outlives_those_added_after_its_last_use(
    index: ShardedIndex,
) -> None:
    """Recency alone would drop it first."""
    index.apply([packed(ADD, 0, segment(0))])
    for _ in range(15):
        assert matched(index, segment(0)) == SEGMENT
    for number in range(1, 2_400):  # four turnovers
        index.apply([packed(ADD, 0, segment(number))])
    assert matched(index, segment(0)) == SEGMENT
    assert matched(index, segment(1)) == 0
    for number in range(2_400, 20_000):
        index.apply([packed(ADD, 0, segment(number))])
    assert matched(index, segment(0)) == 0, "but not for ever"


@pytest.mark.slow
def test_newcomers_stay_for_some_time_where_all_else_was_looked_up(index: ShardedIndex) -> None:
    for number in range(3_000):
        index.apply([packed(ADD, 0, segment(number))])
        matched(index, segment(number))
        if number > 100:
            assert matched(index, segment(number - 100)) == SEGMENT


def test_tails_of_chains_go_before_their_heads(index: ShardedIndex) -> None:
    """Lookups come as deep as they find something: what they find is a prefix of what there was."""
    random = np.random.default_rng(3)
    n_blocks = 6 * SEGMENT
    chains = [segment(6 * number, n_blocks) for number in range(400)]
    for keys in chains:
        parts = range(0, n_blocks, SEGMENT)
        index.apply([b"".join(packed(ADD, 0, keys[begin : begin + SEGMENT]) for begin in parts)])
        for at in random.integers(0, 400, 3):
            matched(index, chains[at])
    holes = 0
    for keys in chains:
        held = [bool(index.lookup(keys[begin : begin + 1])[0]) for begin in range(0, n_blocks, SEGMENT)]
        holes += held != sorted(held, reverse=True)
    assert checked(index.tables[0])["dropped_entries"] > 0
    assert holes <= len(chains) // 4, "all but those that were as cold as what had to stay"


def random_history(seed: int, n: int, n_lanes: int) -> Iterator[Record]:
    random = np.random.default_rng(seed)
    for _ in range(n):
        number = int(random.integers(0, 1_400))
        keys = segment(number)[: int(random.integers(1, SEGMENT))]
        op = int(random.choice([ADD, REMOVE], p=[0.8, 0.2]))
        if random.random() < 0.002:
            op, keys = CLEAR_LANE, keys[:0]
        yield Record(op, int(random.integers(n_lanes)), 1, tuple(map(int, keys)), int(segment(number)[0]))


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "n_lanes"), [(0, 12), (1, 40), (2, 300)])
def test_what_is_held_at_the_budget_is_of_what_was_told(seed: int, n_lanes: int) -> None:
    table, model = Table(budget_bytes=BUDGET), NaiveTable()
    batch: list[Record] = []
    for at, record in enumerate(random_history(seed, 3_000, n_lanes)):
        model.apply(record)
        batch.append(record)
        if at % 40 == 39:
            table.apply(delta(batch))
            batch = []
            table.touch(segment(int(at % 200))[:1])
            checked(table)
    table.apply(delta(batch))
    asked = sorted(model.masks)
    for held, told in zip(table.lookup(np.array(asked, np.uint64)), model.lookup(asked), strict=True):
        assert dict(held).items() <= told.items()
    statistics = checked(table)
    assert statistics["dropped_entries"] > 0
    table.close()


@pytest.mark.slow
def test_where_every_block_has_holders_of_its_own_the_sets_stay_within_the_budget_too() -> None:
    """Their sets take more than their slots."""
    random = np.random.default_rng(5)
    table, told = Table(budget_bytes=BUDGET), 0
    for number in range(300):
        keys = segment(number)
        records = []
        for lane in range(200):
            some = keys[random.random(SEGMENT) < 0.08]
            if len(some):
                records.append(packed(ADD, lane, some, int(keys[0])))
                told += len(some)
            if lane % 20 == 19:
                table.apply(b"".join(records))
                records = []
                checked(table)
    statistics = checked(table)
    assert statistics["set_bytes"] > 16 * statistics["entries"]
    pairs = sum(len(held) for number in range(300) for held in table.lookup(segment(number)))
    assert told // 20 < pairs < told
    assert statistics["dropped_entries"] > 0
    table.close()


def test_the_number_of_buckets_follows_the_budget() -> None:
    for budget, buckets in ((4 << 20, 1 << 13), (64 << 20, 1 << 17), (100 << 20, 1 << 17)):
        table = Table(budget_bytes=budget)
        assert table.statistics()["heat_buckets"] == buckets
        assert checked(table)["bytes"] < budget // 2
        table.close()


def test_after_a_large_clear_nothing_that_lives_is_dropped_for_what_is_dead(index: ShardedIndex) -> None:
    """Dead entries lie in the table until a rebuild; they are not counted as what has to find room."""
    for number in range(560):
        index.apply([packed(ADD, number % 2, segment(number))])
    rebuilds = checked(index.tables[0])["rebuilds"]
    index.remove_lane(1)
    for number in range(560, 700):
        index.apply([packed(ADD, 0, segment(number))])
    statistics = checked(index.tables[0])
    assert statistics["rebuilds"] > rebuilds
    assert statistics["dropped_entries"] == 0
    kept = [*range(0, 560, 2), *range(560, 700)]
    assert [matched(index, segment(number)) for number in kept] == [SEGMENT] * len(kept)
    assert statistics["entries"] == len(kept) * SEGMENT


@pytest.mark.slow
def test_memory_of_retired_generations_is_used_again_as_if_it_were_new(index: ShardedIndex) -> None:
    """At the budget: what the earlier ones held is not seen again, also while a reader holds one."""
    reader = index.tables[0]
    for number in range(6_000):
        index.apply([packed(ADD, 0, segment(number))])
        if number % 50 == 0:
            checked(reader)
    found = sum(bool(held) for number in range(6_000) for held in index.lookup(segment(number)[:1]))
    statistics = checked(reader)
    assert statistics["rebuilds"] > 20
    assert found * SEGMENT == statistics["entries"] < 1_000 * SEGMENT


@pytest.mark.slow
def test_what_is_added_while_a_generation_is_copied_is_in_the_next_one() -> None:
    """Also of a segment that is left behind: what it gets meanwhile is new."""
    table, many = Table(budget_bytes=BUDGET), 2_000
    table.apply(b"".join(packed(ADD, 0, segment(number)) for number in range(many)))
    still_held = (key for n in count() for key in segment(n) if table.lookup(np.array([key]))[0])
    before, added, rebuilds = checked(table)["rebuilds"], list[np.uint64](), 0
    for number in range(many, 2 * many):
        for keys in np.split(segment(number), 8):
            added.append(
                next(still_held)
            )  # of the oldest segment, that goes next; the other's use does not warm it
            again = packed(ADD, 1, np.array(added[-1:]), segment_key=number)
            table.apply(again + packed(ADD, 0, keys, int(segment(number)[0])))
            if checked(table)["rebuilds"] == before:
                continue
            since_the_copying_began = np.array(added[-100:])
            assert all(1 in dict(held) for held in table.lookup(since_the_copying_began))
            before, added, rebuilds = checked(table)["rebuilds"], [], rebuilds + 1
    assert rebuilds >= 4
    table.close()
