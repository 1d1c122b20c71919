"""What a fleet's mirror gives away: gathered in one order, bounded, and in one order with its content."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from kvatlas import InputError
from kvatlas.index._native import Table
from kvatlas.ingest._native import DeltaLog
from tests.ingest.plain_batches import batch, stored
from tests.ingest.small_fleet import FIRST, TOKENS, TOPIC, held, new_mirror


def test_what_is_told_can_be_taken_once_and_says_that_it_is_there() -> None:
    mirror = new_mirror()
    mirror.changed.clear()
    mirror.ingest(TOPIC, 0, FIRST)
    assert mirror.changed.is_set()
    table = Table(1 << 22)
    for piece in mirror.take():
        table.apply(piece)
    assert held(table, mirror) == [[(0, 1)], [(0, 1)]]
    keys = np.array(list(mirror.residency("m")["a", 0, 0]), np.uint64)
    assert mirror.take() == []
    mirror.changed.clear()
    mirror.remove_pod("a")
    assert mirror.changed.is_set()
    (cleared,) = mirror.take()
    table.apply(cleared)
    assert table.lookup(keys) == [[], []]


def test_more_than_fits_is_dropped_and_counted_and_the_content_makes_up_for_it() -> None:
    mirror = new_mirror(bytes_max=100)
    mirror.ingest(TOPIC, 0, FIRST)
    assert mirror.lost == 0
    mirror.ingest(TOPIC, 1, batch(stored([3, 4], TOKENS[32:], 2), stored([5] * 1, [7] * 16)))
    mirror.ingest(TOPIC, 2, batch(stored(list(range(100, 140)), [*range(640)])))
    assert mirror.lost > 0
    table = Table(1 << 22)
    mirror.take()
    for content in mirror.content():
        table.replace(content.lanes, content.records)
    assert all(holders == [(0, 1)] for holders in held(table, mirror))
    assert len(held(table, mirror)) == 41


def test_pieces_are_whole_records_in_their_order() -> None:
    log = DeltaLog(64 << 20)
    record = b"\x01\x01\0\0" + (400_000).to_bytes(4, "little") + bytes(16) + bytes(3_200_000)
    for _ in range(3):
        log.append(record)
    assert len(log) == 3 * len(record)
    assert list(iter(log.take, b"")) == [record] * 3
    log.append(record[:24][:4] + bytes(20))
    log.append(bytes([3]) + bytes(23))
    assert log.take() == record[:4] + bytes(20) + bytes([3]) + bytes(23), "small ones are one piece"
    with pytest.raises(InputError, match="expected a record of 24 bytes"):
        log.append(b"\x01")
    assert len(log) == 0


def test_one_may_take_and_read_the_content_while_another_writes() -> None:
    mirror = new_mirror(bytes_max=1 << 26)
    fed, loaded = Table(1 << 24), Table(1 << 24)
    ends = threading.Event()

    def write() -> None:
        for seq in range(600):
            pod = seq % 3
            tokens = np.random.default_rng(seq).integers(0, 9, 64).tolist()
            hashes = [seq * 10 + i + 1 for i in range(4)]
            said = [stored(hashes, tokens)]
            if seq >= 60:
                gone = [hash - 600 for hash in hashes]
                said.append({"type": "BlockRemoved", "block_hashes": gone})
            mirror.ingest(b"kv@p%d@m" % pod, seq // 3, batch(*said))
        ends.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while not ends.is_set():
            for content in mirror.content():
                for piece in content.before:
                    fed.apply(piece)
                    loaded.apply(piece)
                loaded.replace(content.lanes, content.records)
    finally:
        writer.join()
    for piece in mirror.take():
        fed.apply(piece)
        loaded.apply(piece)
    assert mirror.lost == 0
    expected: dict[int, dict[int, int]] = {}
    lanes = {name: lane for lane, name in mirror.fleet.lane_names.items()}
    for name, blocks in mirror.residency("m").items():
        for key, tiers in blocks.items():
            expected.setdefault(key, {})[lanes[name]] = tiers
    keys = np.array(sorted(expected), np.uint64)
    for table in (fed, loaded):
        assert [dict(holders) for holders in table.lookup(keys)] == [expected[int(key)] for key in keys]
