"""A residency table as nested dicts, and deltas as the native one reads them.

A delta is records back to back, little-endian: u8 op, u8 tier bit, u16 zero, u32 count, u32 lane,
u32 zero, u64 segment key, then `count` u64 keys.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ADD, REMOVE, CLEAR_LANE, CLOSE, OPEN = 1, 2, 3, 4, 5
TIER_BITS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Record:
    """Some keys of a lane come or go in one tier, or the whole lane is cleared."""

    op: int
    lane: int
    tier: int = 1
    keys: tuple[int, ...] = ()
    segment_key: int = 0

    def packed(self) -> bytes:
        head = struct.pack("<BBHIIIQ", self.op, self.tier, 0, len(self.keys), self.lane, 0, self.segment_key)
        return head + struct.pack(f"<{len(self.keys)}Q", *self.keys)


def delta(records: Iterable[Record]) -> bytes:
    return b"".join(record.packed() for record in records)


class NaiveTable:
    """Tier masks by key and lane. Key 0 is none: it is taken for 1."""

    def __init__(self) -> None:
        self.masks: dict[int, dict[int, int]] = {}

    def apply(self, record: Record) -> None:
        if record.op == CLEAR_LANE:
            for key in list(self.masks):
                self._keep(key, record.lane, 0)
        for key in map(nonzero, record.keys):
            if record.op == ADD:
                lanes = self.masks.setdefault(key, {})
                lanes[record.lane] = lanes.get(record.lane, 0) | record.tier
            elif record.op == REMOVE:
                self._keep(key, record.lane, ~record.tier)

    def replace(self, lanes: Iterable[int], records: Iterable[Record]) -> None:
        for lane in lanes:
            self.apply(Record(CLEAR_LANE, lane))
        for record in records:
            self.apply(record)

    def _keep(self, key: int, lane: int, tiers: int) -> None:
        lanes = self.masks.get(key, {})
        if lane in lanes:
            lanes[lane] &= tiers
            if not lanes[lane]:
                del lanes[lane]
        if not lanes:
            self.masks.pop(key, None)

    def lookup(self, keys: Sequence[int]) -> list[dict[int, int]]:
        return [dict(self.masks.get(nonzero(key), {})) for key in keys]


def nonzero(key: int) -> int:
    return key or 1


def segment_tag(segment_key: int) -> int:
    """The high half of the scrambled key."""
    return (segment_key ^ (segment_key >> 32)) * 0x9E3779B97F4A7C15 % 2**64 >> 32


def shard_of(segment_key: int, n_shards: int) -> int:
    """Jump consistent hash of the segment's tag, in plain integers."""
    tag = segment_tag(segment_key)
    key = tag << 32 | tag
    bucket, after = 0, 0
    while after < n_shards:
        bucket = after
        key = (key * 2862933555777941757 + 1) % 2**64
        after = int((bucket + 1) * (2**31 / ((key >> 33) + 1)))
    return bucket
