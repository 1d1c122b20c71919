"""Delta records as what is to be done to llm-d's hashes."""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from kvatlas.index.deltas import RECORD_HEAD
from kvatlas.index.remote.llmd.answers import decimal
from kvatlas.index.remote.llmd.entries import encode_entry
from kvatlas.index.remote.llmd.lane_names import LaneName, LaneNames

_ADD, _REMOVE, _CLEAR = 1, 2, 3
_TIER_BITS = (1, 2, 4, 8, 16, 32)


class Change(NamedTuple):
    """Fields that are to be added to hashes, or removed."""

    is_add: bool
    fields: tuple[bytes, ...]
    keys: list[bytes]


class Changes(NamedTuple):
    """What a delta comes to."""

    emptied: frozenset[int]
    """Lanes that are emptied before all else."""
    changes: list[Change]
    """In this order. Fields of two lanes never meet, so only the order within a lane counts."""
    left_out_blocks: int
    """Told of lanes that are not written."""


def changes_of(delta: bytes, names: LaneNames) -> Changes:
    """Raises InputError for a lane without a name. REQUIRES: whole records."""
    by_lane: dict[int, list[tuple[int, int, list[bytes]]]] = {}
    emptied: set[int] = set()
    left_out = 0
    for op, tiers, lane, keys in _records(delta):
        if names.is_left_out(lane):
            left_out += len(keys)
            continue
        names.name_of(lane)
        steps = by_lane.setdefault(lane, [])
        if op == _CLEAR:
            steps.clear()
            emptied.add(lane)
        elif keys and steps and steps[-1][:2] == (op, tiers):
            steps[-1][2].extend(keys)
        elif keys:
            steps.append((op, tiers, keys))
    changes = [
        Change(op == _ADD, fields_of(names.name_of(lane), tiers), keys)
        for lane, steps in by_lane.items()
        for op, tiers, keys in steps
    ]
    return Changes(frozenset(emptied), changes, left_out)


@functools.lru_cache(maxsize=4096)
def fields_of(name: LaneName, tiers: int) -> tuple[bytes, ...]:
    """The fields of a lane's copies, one a tier bit."""
    return tuple(encode_entry(name.pod, bit, name.group) for bit in _TIER_BITS if tiers & bit)


def _records(delta: bytes) -> Iterator[tuple[int, int, int, list[bytes]]]:
    """Op, tier bits, lane and keys of each; an engine's word on closedness has no place here."""
    at = 0
    while at < len(delta):
        op, tiers, _, count, lane, _, _ = RECORD_HEAD.unpack_from(delta, at)
        at += RECORD_HEAD.size
        if op <= _CLEAR:
            yield (
                op,
                tiers,
                lane,
                decimal(np.frombuffer(delta, "<u8", count, at)) if count > 8 else _few(delta, count, at),
            )
        at += 8 * count


def _few(delta: bytes, count: int, at: int) -> list[bytes]:
    """The same keys, without an array: decoding engines tell a block at a time."""
    return [b"%d" % key for key in struct.unpack_from(f"<{count}Q", delta, at)]
