"""The uses of segments and what the byte budget leaves behind, in plain Python (native/heat.hpp)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

LOOKUPS_MAX = 15
HALVING_TICKS = 2_048
COST_MOST = 4.0


class Content(NamedTuple):
    """Of one bucket."""

    entries: int
    set_units: int


class NaiveHeat:
    """By bucket: when it was used last, in ticks, and its lookups then."""

    def __init__(self, budget_bytes: int) -> None:
        self.bucket_bits = min(max((budget_bytes >> 9).bit_length() - 1, 12), 22)
        self.tick_keys = 1 << max(budget_bytes.bit_length() - 16, 0)
        self.keys_applied = 0
        self.uses: dict[int, tuple[int, int]] = {}

    def bucket_of(self, tag: int) -> int:
        return tag >> (32 - self.bucket_bits)

    @property
    def now(self) -> int:
        return self.keys_applied // self.tick_keys

    def use_of(self, bucket: int) -> tuple[int, int]:
        last, lookups = self.uses.get(bucket, (0, 0))
        age = self.now - last
        return age, lookups >> min(age // HALVING_TICKS, 4)

    def use(self, bucket: int, lookups: int) -> None:
        self.uses[bucket] = self.now, min(self.use_of(bucket)[1] + lookups, LOOKUPS_MAX)

    def coldness(self, bucket: int, content: Content, entry_bytes: float, set_unit_bytes: float) -> float:
        age, lookups = self.use_of(bucket)
        cost = 1 + content.set_units * set_unit_bytes / (content.entries * entry_bytes)
        return (age + 1) * min(cost, COST_MOST) / (1 + lookups)


def bytes_of(contents: Mapping[int, Content], entry_bytes: float, set_unit_bytes: float) -> dict[int, float]:
    return {b: c.entries * entry_bytes + c.set_units * set_unit_bytes for b, c in contents.items()}
