"""Readers and writers of one table in threads of one process; the thread sanitizer runs this too."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from kvatlas.index.keys import block_keys
from kvatlas.index.shards import ShardedIndex
from tests.models.table import ADD, CLEAR_LANE, CLOSE, OPEN, REMOVE, Record

GPU = 1


@pytest.mark.slow
def test_matches_stay_whole_while_the_table_grows_is_compacted_and_lanes_are_cleared() -> None:
    """Lane 0 always holds the chain; lane 1 holds a prefix that comes and goes; others only churn."""
    index = ShardedIndex(2, table_bytes_max=1 << 25)
    keys = block_keys(np.arange(300 * 16, dtype=np.uint32), model="m")
    index.roster.set(0, [0], [])
    index.roster.set(1, [1], [])

    def apply(record: Record) -> None:
        deltas = [b"", b""]
        deltas[index.shard_of(record.segment_key)] = record.packed()
        index.apply(deltas)

    def mark(op: int, lane: int) -> None:
        index.apply([Record(op, lane).packed()] * 2)

    def chain(op: int, lane: int, end: int) -> None:
        for at in range(0, end, 128):
            segment = tuple(map(int, keys[at : min(at + 128, end)]))
            apply(Record(op, lane, GPU, segment, int(keys[at])))

    chain(ADD, 0, 300)
    mark(CLOSE, 0)
    done = threading.Event()
    wrong: list[object] = []
    n_matches = [0, 0]

    def read(which: int) -> None:
        while not done.is_set() or n_matches[which] == 0:
            matches = index.match(keys)
            found = dict(zip(matches.workers.tolist(), matches.blocks.tolist(), strict=True))
            if found.get(0) != 300 or not 0 <= found.get(1, 0) <= 200:
                wrong.append(found)
            n_matches[which] += 1

    readers = [threading.Thread(target=read, args=(which,)) for which in range(2)]
    for reader in readers:
        reader.start()
    rng = np.random.default_rng(0)
    for turn in range(60):
        chain(ADD, 1, 200)
        mark(CLOSE, 1)
        for _ in range(10):
            some = tuple(map(int, rng.integers(2, 2**63, 500)))
            apply(Record(ADD, 2 + turn % 5, GPU, some, some[0]))
            apply(Record(REMOVE, 2 + turn % 5, GPU, some[: 400 if turn < 30 else 500], some[0]))
        mark(OPEN, 1)
        if turn % 2:
            mark(CLEAR_LANE, 1)
        else:
            chain(REMOVE, 1, 200)
    done.set()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert all(n_matches)
    assert sum(table["rebuilds"] for table in index.statistics()) > 2
    index.close()
