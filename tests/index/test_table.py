"""The native residency table against a table of dicts, told the same deltas."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvatlas.index._native import Table
from kvatlas.index.errors import InputError
from tests.models.table import (
    ADD,
    CLEAR_LANE,
    CLOSE,
    OPEN,
    REMOVE,
    TIER_BITS,
    NaiveTable,
    Record,
    delta,
)
from tests.profiles import examples

pytestmark = pytest.mark.native

LANES_MAX = 65_535
BUDGET = 4 << 20
MIXED_KEYS = [i * 0x9E3779B97F4A7C15 % 2**64 for i in range(1, 9)]
KEYS = [0, 1, 2, 3, 2**32, 2**63, 2**64 - 2, 2**64 - 1, *MIXED_KEYS]

keys = st.lists(st.sampled_from(KEYS), max_size=8).map(tuple)
lanes = st.sampled_from([0, 1, 2, 3, 63, 64, 65, 4095, LANES_MAX - 1])
tiers = st.sampled_from([*TIER_BITS, 3, 63])
segments = st.sampled_from(KEYS)
changes = st.builds(Record, st.sampled_from([ADD, ADD, REMOVE]), lanes, tiers, keys, segment_key=segments)
others = st.builds(Record, st.sampled_from([CLEAR_LANE, CLOSE, OPEN]), lanes, tiers)
records = st.lists(changes | changes | changes | others, max_size=30)


def looked_up(table: Table, asked: Sequence[int]) -> list[dict[int, int]]:
    found = table.lookup(np.array(asked, np.uint64))
    assert all(len({lane for lane, _ in held}) == len(held) for held in found)
    return [dict(held) for held in found]


@pytest.fixture
def table() -> Iterator[Table]:
    table = Table()
    yield table
    table.close()


@given(st.lists(records, max_size=4))
def test_any_deltas_leave_what_they_leave_in_dicts(batches: list[list[Record]]) -> None:
    table, model = Table(), NaiveTable()
    for batch in batches:
        assert table.apply(delta(batch)) == len(batch)
        for record in batch:
            model.apply(record)
        assert looked_up(table, KEYS) == model.lookup(KEYS)
    table.close()


def test_an_empty_delta_and_an_empty_question_are_fine(table: Table) -> None:
    assert table.apply(b"") == 0
    assert table.lookup(np.array([], np.uint64)) == []
    assert looked_up(table, KEYS) == [{}] * len(KEYS)


def random_records(seed: int, n: int, n_keys: int, n_lanes: int) -> Iterator[Record]:
    """A long history: chains come and go in runs of up to 200 blocks."""
    random = np.random.default_rng(seed)
    pool = random.integers(0, 2**64, n_keys, dtype=np.uint64)
    lane_ids = random.choice(LANES_MAX, n_lanes, replace=False)
    for _ in range(n):
        start = int(random.integers(n_keys))
        run = pool[start : start + int(random.integers(1, 200))]
        op = int(random.choice([ADD, ADD, ADD, REMOVE, REMOVE]))
        if random.random() < 0.002:
            op, run = CLEAR_LANE, run[:0]
        lane, tier = int(random.choice(lane_ids)), int(random.choice(TIER_BITS[:3]))
        yield Record(op, lane, tier, tuple(map(int, run)), segment_key=int(pool[start]))


@pytest.mark.slow
@pytest.mark.parametrize(("n_keys", "n_lanes"), [(500, 3), (3_000, 40), (400, 2_000)])
def test_a_long_history_leaves_what_it_leaves_in_dicts(n_keys: int, n_lanes: int) -> None:
    table, model = Table(), NaiveTable()
    batch: list[Record] = []
    asked: set[int] = set()
    for i, record in enumerate(random_records(n_keys, 1_500, n_keys, n_lanes)):
        model.apply(record)
        asked.update(record.keys)
        batch.append(record)
        if i % 50 == 49:
            table.apply(delta(batch))
            batch = []
        if i % 250 == 249:
            assert looked_up(table, sorted(asked)) == model.lookup(sorted(asked))
    table.close()


def test_a_block_may_be_held_by_any_number_of_lanes_up_to_the_last(table: Table) -> None:
    lanes = [*range(0, LANES_MAX, 21), LANES_MAX - 1]
    table.apply(delta(Record(ADD, lane, 1, (7,)) for lane in lanes))
    assert looked_up(table, [7]) == [dict.fromkeys(lanes, 1)]
    table.apply(Record(REMOVE, 21, 1, (7,)).packed())
    assert looked_up(table, [7]) == [dict.fromkeys(set(lanes) - {21}, 1)]
    table.apply(delta(Record(REMOVE, lane, 1, (7,)) for lane in lanes))
    assert looked_up(table, [7]) == [{}]


@pytest.mark.slow
def test_it_grows_and_forgets_nothing(table: Table) -> None:
    n = 300_000
    held = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for start in range(0, n, 10_000):
        run = tuple(map(int, held[start : start + 10_000]))
        table.apply(Record(ADD, 5, 1, run, segment_key=run[0]).packed())
    assert table.lookup(held) == [[(5, 1)]] * n
    assert table.statistics()["entries"] == n
    assert table.statistics()["dropped_entries"] == 0


@pytest.mark.slow
def test_churn_neither_grows_it_nor_loses_a_block(table: Table) -> None:
    """Tombstones and sets of long ago are used again."""
    window, n = 20_000, 1_000_000
    held = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    sizes = []
    for start in range(0, n, 5_000):
        new = held[start : start + 5_000]
        old = held[max(start - window, 0) : max(start - window + 5_000, 0)]
        lane = start // 5_000 % 300
        table.apply(packed_run(ADD, lane, new) + packed_run(REMOVE, (lane - window // 5_000) % 300, old))
        sizes.append(table.statistics()["bytes"])
    kept = held[n - window :]
    assert all(len(found) == 1 for found in table.lookup(kept))
    assert not any(table.lookup(held[: n - window]))
    assert max(sizes[len(sizes) // 2 :]) <= max(sizes[: len(sizes) // 2])


def packed_run(op: int, lane: int, run: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> bytes:
    segment_key = int(run[0]) if len(run) else 0
    head = struct.pack("<BBHIIIQ", op, 1, 0, len(run), lane, 0, segment_key)
    return head + run.astype("<u8").tobytes()


@pytest.mark.slow
def test_at_the_budget_whole_segments_go_and_are_counted() -> None:
    """What is left was told and not taken back; the rest is counted, block by block."""
    table, n, run = Table(budget_bytes=BUDGET), 400_000, 128
    held = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for start in range(0, n, run):
        table.apply(packed_run(ADD, start // run % 7, held[start : start + run]))
        assert table.statistics()["bytes"] <= BUDGET
    found = table.lookup(held)
    present = np.array([bool(lanes) for lanes in found])
    assert all(lanes in ([], [(i // run % 7, 1)]) for i, lanes in enumerate(found))
    assert 0 < present.sum() < n
    assert table.statistics()["dropped_entries"] == n - present.sum()
    assert table.statistics()["entries"] == present.sum()
    table.close()


GOOD = Record(ADD, 3, 1, (11, 12)).packed()


@pytest.mark.parametrize(
    "malformed",
    [
        GOOD[:-1],
        GOOD[:-8],
        GOOD[:23],
        GOOD[:1],
        GOOD + b"\0",
        b"\0" + GOOD[1:],
        b"\x06" + GOOD[1:],
        Record(ADD, 3, 0, (11,)).packed(),
        Record(ADD, 3, 64, (11,)).packed(),
        Record(ADD, LANES_MAX + 1, 1, (11,)).packed(),
        Record(ADD, 2**32 - 1, 1, (11,)).packed(),
        Record(CLOSE, 3, 1, (11,)).packed(),
        Record(OPEN, 3, 1, (11,)).packed(),
        Record(CLEAR_LANE, 3, 1, (11,)).packed(),
        struct.pack("<BBHIIIQ", ADD, 1, 0, 2**32 - 1, 3, 0, 0),
    ],
)
def test_a_malformed_delta_is_refused_and_nothing_of_it_applied(table: Table, malformed: bytes) -> None:
    table.apply(Record(ADD, 1, 2, (11,)).packed())
    with pytest.raises(InputError, match=r"."):
        table.apply(GOOD + malformed)
    assert looked_up(table, [11, 12]) == [{1: 2}, {}]
    assert table.apply(GOOD) == 1


@given(st.binary(max_size=200))
@settings(max_examples=examples(300))
def test_any_bytes_are_applied_or_refused(data: bytes) -> None:
    table = Table()
    try:
        table.apply(data)
    except InputError:
        assert looked_up(table, KEYS) == [{}] * len(KEYS)
    table.close()
