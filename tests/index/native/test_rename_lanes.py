"""Delta records told under other lanes, beside a plain model of it."""

from __future__ import annotations

import random

import numpy as np
import pytest

from kvatlas import InputError
from kvatlas.index._native import rename_lanes
from kvatlas.index.deltas import RECORD_HEAD

ADD, REMOVE, CLEAR, CLOSE, OPEN = 1, 2, 3, 4, 5
LEFT_OUT = 2**32 - 1


def record(op: int, lane: int, n_keys: int = 0) -> bytes:
    keys: bytes = (np.arange(n_keys, dtype=np.uint64) + np.uint64(lane * 1000)).tobytes()
    return RECORD_HEAD.pack(op, int(op in (ADD, REMOVE)), 0, n_keys, lane, 0, 7) + keys


def plain(records: list[tuple[int, int, int]], lanes: list[int], removals_only: bool) -> bytes:
    told = b""
    for op, lane, n_keys in records:
        to = lanes[lane] if lane < len(lanes) else LEFT_OUT
        if to != LEFT_OUT and (not removals_only or op in (REMOVE, CLEAR, OPEN)):
            told += RECORD_HEAD.pack(op, int(op in (ADD, REMOVE)), 0, n_keys, to, 0, 7)
            told += record(op, lane, n_keys)[RECORD_HEAD.size :]
    return told


@pytest.mark.parametrize("removals_only", [False, True])
def test_records_are_those_of_the_plain_model(removals_only: bool) -> None:
    rng = random.Random(7)
    for _ in range(200):
        records = []
        for _ in range(rng.randrange(20)):
            op = rng.randrange(1, 6)
            records.append((op, rng.randrange(12), rng.randrange(5) if op <= REMOVE else 0))
        lanes = [rng.choice([LEFT_OUT, rng.randrange(65_000)]) for _ in range(rng.randrange(12))]
        delta = b"".join(record(*one) for one in records)
        told = rename_lanes(delta, np.array(lanes, np.uint32), removals_only)
        assert told == plain(records, lanes, removals_only)


@pytest.mark.parametrize("delta", [b"x", record(ADD, 1, 2)[:-1], record(9, 1), record(CLEAR, 1)[:-1]])
def test_what_is_no_record_is_refused(delta: bytes) -> None:
    with pytest.raises(InputError, match="delta at byte 0"):
        rename_lanes(delta, np.arange(4, dtype=np.uint32))


def test_a_map_of_something_else_is_refused() -> None:
    with pytest.raises(InputError):
        rename_lanes(b"", np.array([-1]))
