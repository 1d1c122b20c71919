"""What bench_budget.py compares: our table at a byte budget, and models of others at a count of entries."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from budget_traffic import ENGINES, SEGMENT_UNITS, Placed, Units
from workload import ADD, REMOVE, Keys, record

from kvatlas.index.shards import ShardedIndex

UNIT_BLOCKS = 32


class Policy(Protocol):
    """An index with a limit."""

    def look_up(self, prompt: Units) -> int:
        """Leading units that it knows an engine to hold all of."""
        ...

    def store(self, engine: int, placed: Sequence[Placed]) -> None: ...

    def remove(self, engine: int, placed: Sequence[Placed]) -> None: ...


def keys_of_units(units: Units) -> Keys:
    """Block keys [32 a unit]: counters, scrambled (splitmix64)."""
    with np.errstate(over="ignore"):
        first = np.asarray(units, np.uint64)[:, None] * np.uint64(UNIT_BLOCKS) + np.uint64(1)
        x = (first + np.arange(UNIT_BLOCKS, dtype=np.uint64)).ravel() * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        keys: Keys = x ^ (x >> np.uint64(31))
    return keys


class OurTable:
    """The residency table."""

    def __init__(self, budget_bytes: int) -> None:
        self.index = ShardedIndex(table_bytes_max=budget_bytes)
        for engine in range(ENGINES):
            self.index.roster.set(engine, [engine], [])

    def look_up(self, prompt: Units) -> int:
        blocks = self.index.match(keys_of_units(prompt)).blocks if len(prompt) else np.zeros(0)
        return int(blocks.max(initial=0)) // UNIT_BLOCKS

    def store(self, engine: int, placed: Sequence[Placed]) -> None:
        self._apply(ADD, engine, placed)

    def remove(self, engine: int, placed: Sequence[Placed]) -> None:
        self._apply(REMOVE, engine, placed)

    def _apply(self, op: int, engine: int, placed: Sequence[Placed]) -> None:
        by_segment: dict[int, list[int]] = defaultdict(list)
        for unit, segment in placed:
            by_segment[segment].append(unit)
        records = [
            record(op, engine, int(keys_of_units([segment])[0]), keys_of_units(units))
            for segment, units in by_segment.items()
        ]
        if records:
            self.index.apply([b"".join(records)])


class BlockLru:
    """Strict LRU of blocks, in its best form: of what was used at once, tails go first."""

    pods_max = ENGINES

    def __init__(self, units_max: int) -> None:
        self.units_max = units_max
        self.known: OrderedDict[int, OrderedDict[int, None]] = OrderedDict()

    def order(self, units: Units) -> Units:
        return units[::-1]

    def look_up(self, prompt: Units) -> int:
        found = 0
        while found < len(prompt) and prompt[found] in self.known:
            found += 1
        for unit in self.order(prompt[:found]):
            self.known.move_to_end(unit)
        held, best = 0, set(range(ENGINES))
        for held, unit in enumerate(prompt[:found]):
            best &= self.known[unit].keys()
            if not best:
                return held
        return held + 1 if found else 0

    def store(self, engine: int, placed: Sequence[Placed]) -> None:
        for unit in self.order([unit for unit, _ in placed]):
            pods = self.known.setdefault(unit, OrderedDict())
            pods[engine] = None
            if len(pods) > self.pods_max:
                pods.popitem(last=False)
            self.known.move_to_end(unit)
        while len(self.known) > self.units_max:
            self.known.popitem(last=False)

    def remove(self, engine: int, placed: Sequence[Placed]) -> None:
        for unit, _ in placed:
            pods = self.known.get(unit)
            if pods is not None:
                pods.pop(engine, None)
                if not pods:
                    del self.known[unit]


class LlmdLimit(BlockLru):
    """llm-d's in-memory index: a limit of keys, LRU as keys are read and written, 10 pods a key."""

    pods_max = 10

    def order(self, units: Units) -> Units:
        return units


class SegmentLru(BlockLru):
    """LRU by whole segments, as the table did it: recency alone."""

    def __init__(self, units_max: int) -> None:
        super().__init__(units_max)
        self.segments: OrderedDict[int, set[int]] = OrderedDict()

    def look_up(self, prompt: Units) -> int:
        found = super().look_up(prompt)
        for segment in prompt[:found:SEGMENT_UNITS]:
            if segment in self.segments:
                self.segments.move_to_end(segment)
        return found

    def store(self, engine: int, placed: Sequence[Placed]) -> None:
        for unit, segment in placed:
            self.known.setdefault(unit, OrderedDict())[engine] = None
            self.segments.setdefault(segment, set()).add(unit)
            self.segments.move_to_end(segment)
        while len(self.known) > self.units_max:
            for unit in self.segments.popitem(last=False)[1]:
                self.known.pop(unit, None)
