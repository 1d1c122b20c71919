"""Batches as llm-d's hashes are told of them, beside a plain model."""

from __future__ import annotations

import random
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.index._native import llmd_arguments, llmd_lanes_of
from kvatlas.index.errors import InputError
from kvatlas.index.remote.connection.commands import Command, Packed, pack
from tests.index.remote.compact.records import ADD, REMOVE, chain, cleared, closed, opened, told

CLEAR, CLOSED = 3, 4


class Record(NamedTuple):
    """One record of a batch."""

    op: int
    lane: int
    tiers: int
    keys: list[int]


def _batch_of(records: list[Record]) -> bytes:
    out = b""
    for op, lane, tiers, keys in records:
        if op == CLEAR:
            out += cleared(lane)
        elif op == CLOSED:
            out += closed(lane) + opened(lane)
        else:
            out += told(op, lane, np.array(keys, np.uint64), tiers=tiers)
    return out


def _plain(records: list[Record]) -> list[tuple[int, bool, int, list[tuple[int, int, list[int]]]]]:
    """Of each lane: whether it is emptied, keys told, steps."""
    out: dict[int, tuple[int, bool, int, list[tuple[int, int, list[int]]]]] = {}
    for op, lane, tiers, keys in records:
        if op == CLOSED:
            continue
        _, is_emptied, n_keys, steps = out.get(lane, (lane, False, 0, []))
        if op == CLEAR:
            is_emptied, steps = True, []
        elif steps and steps[-1][:2] == (op, tiers):
            steps[-1][2].extend(keys)
        else:
            steps.append((op, tiers, list(keys)))
        out[lane] = (lane, is_emptied, n_keys + len(keys), steps)
    return list(out.values())


def test_lanes_are_told_what_the_batch_says_of_them() -> None:
    rng = random.Random(3)
    for _ in range(200):
        records = []
        for _ in range(rng.randrange(40)):
            op = rng.choice((ADD, ADD, ADD, REMOVE, CLEAR, CLOSED))
            n_keys = rng.choice((1, 1, 2, 100)) if op <= REMOVE else 0
            keys = [rng.getrandbits(64) for _ in range(n_keys)]
            records.append(Record(op, rng.randrange(4), rng.choice((1, 3)), keys))
        got = [
            (lane, is_emptied, n_keys, [(op, tiers, keys.tolist()) for op, tiers, keys in steps])
            for lane, is_emptied, n_keys, steps in llmd_lanes_of(_batch_of(records))
        ]
        assert got == _plain(records)


def test_malformed_batches_are_refused() -> None:
    for batch in (b"x", told(ADD, 1, chain(3))[:-1]):
        with pytest.raises(InputError):
            llmd_lanes_of(batch)


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 100)))
def test_packed_keys_are_the_arguments_that_they_would_be_one_by_one(keys: list[int]) -> None:
    packed = Packed(len(keys), llmd_arguments(np.array(keys, np.uint64)))
    assert pack([Command(None, (b"X", packed, b"Y"))]) == pack(
        [Command(None, (b"X", *(b"%d" % key for key in keys), b"Y"))]
    )
