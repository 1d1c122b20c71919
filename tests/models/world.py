"""An index beside what it was told, block by block: for tests of matching."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kvatlas.index._native import SEGMENT_BLOCKS, shard_of
from kvatlas.index.keys import block_keys
from kvatlas.index.shards import ShardedIndex
from tests.models.table import ADD, CLEAR_LANE, Record

GPU, CPU, STORAGE = 1, 2, 8


def chain(n_blocks: int, seed: int) -> npt.NDArray[np.uint64]:
    tokens = np.random.default_rng(seed).integers(0, 150_000, n_blocks * 16, dtype=np.uint32)
    return block_keys(tokens, model="m")


@dataclass
class World:
    """An index and what it was told, block by block."""

    shards: int
    index: ShardedIndex = field(init=False)
    held: dict[int, dict[int, int]] = field(default_factory=dict)
    """Lane -> block key -> tier bits."""

    def __post_init__(self) -> None:
        self.index = ShardedIndex(self.shards, table_bytes_max=1 << 25)

    def tell(self, op: int, lane: int, keys: npt.NDArray[np.uint64], tier: int, first: int = 0) -> None:
        """Keys from place `first` of their chain on; whole chains only, so that segments are known."""
        deltas = [b""] * self.shards
        for at in range(0, len(keys), SEGMENT_BLOCKS):
            segment = keys[at : at + SEGMENT_BLOCKS]
            shard = shard_of(int(segment[0]), self.shards)
            wanted = tuple(int(key) for i, key in enumerate(segment, at) if i >= first)
            deltas[shard] += Record(op, lane, tier, wanted, int(segment[0])).packed()
        self.index.apply(deltas)
        held = self.held.setdefault(lane, {})
        for key in keys[first:].tolist():
            held[key] = held.get(key, 0) | tier if op == ADD else held.get(key, 0) & ~tier

    def hold(self, lane: int, keys: npt.NDArray[np.uint64], masks: list[int]) -> None:
        """The lane holds each block of a whole chain in these tiers [n_blocks]."""
        for tier in (1 << bit for bit in range(6)):
            for at in range(0, len(keys), SEGMENT_BLOCKS):
                segment = keys[at : at + SEGMENT_BLOCKS].tolist()
                wanted = tuple(key for key, mask in zip(segment, masks[at:], strict=False) if mask & tier)
                if wanted:
                    record = Record(ADD, lane, tier, wanted, segment[0])
                    self.index.tables[shard_of(segment[0], self.shards)].apply(record.packed())

    def mark(self, op: int, lane: int) -> None:
        self.index.apply([Record(op, lane, 0, ()).packed()] * self.shards)
        if op == CLEAR_LANE:
            self.held.pop(lane, None)

    def walk(self, keys: npt.NDArray[np.uint64], lanes: list[int], stores: list[int]) -> list[int]:
        """Best tier bit of each leading block that all lanes, or a store, hold."""
        run = []
        for key in keys.tolist():
            masks = [self.held.get(lane, {}).get(key, 0) for lane in lanes]
            stored = 0
            for store in stores:
                stored |= self.held.get(store, {}).get(key, 0)
            slowest = max(mask & -mask for mask in masks) if all(masks) else 0
            best = (slowest | stored) & -(slowest | stored)
            if best == 0:
                break
            run.append(best)
        return run
