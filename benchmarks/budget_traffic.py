"""Traffic for bench_budget.py: prompts played over a small fleet whose engines evict by LRU.

A unit is 512 tokens: 32 blocks of 16, four units a segment. All policies are told the same events.
"""

from __future__ import annotations

import json
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

SEGMENT_UNITS = 4
ENGINES = 8

Units = Sequence[int]
"""The prompt's units, from its head on; what a number stands for depends on all before it."""


class Placed(NamedTuple):
    """A unit, and the first one of its segment in the chain."""

    unit: int
    segment: int


class Turn(NamedTuple):
    """One prompt: what is looked up, and what the engine that gets it then drops and stores."""

    prompt: Units
    held: int
    """Leading units that the best engine holds."""
    engine: int
    removed: list[Placed]
    stored: list[Placed]


class Traffic(NamedTuple):
    turns: list[Turn]
    units_held_max: int
    """Different units that the fleet holds at once, at most: what an index without limit needs room for."""


class Fleet:
    """Engines that hold `units_max` units each and evict those unused for longest, tails first."""

    def __init__(self, units_max: int) -> None:
        self.units_max = units_max
        self.caches: list[OrderedDict[int, int]] = [OrderedDict() for _ in range(ENGINES)]
        self.holders: dict[int, set[int]] = defaultdict(set)
        self.load = [0] * ENGINES

    def serve(self, prompt: Units) -> Turn:
        held, best = self._best(prompt)
        idlest = min(range(ENGINES), key=self.load.__getitem__)
        engine = min(best if held > 1 else range(ENGINES), key=self.load.__getitem__)
        if self.load[engine] > self.load[idlest] + 200:
            engine = idlest
        self.load[engine] += len(prompt)
        return Turn(prompt, held, engine, *self._store(engine, prompt))

    def _best(self, prompt: Units) -> tuple[int, set[int]]:
        best = set(range(ENGINES))
        for held, unit in enumerate(prompt):
            still = best & self.holders.get(unit, set())
            if not still:
                return held, best
            best = still
        return len(prompt), best

    def _store(self, engine: int, prompt: Units) -> tuple[list[Placed], list[Placed]]:
        cache = self.caches[engine]
        stored = [
            Placed(u, prompt[i // SEGMENT_UNITS * SEGMENT_UNITS])
            for i, u in enumerate(prompt)
            if u not in cache
        ]
        for unit in reversed(prompt):
            if unit in cache:
                cache.move_to_end(unit)
        for unit, segment in reversed(stored):
            cache[unit] = segment
            self.holders[unit].add(engine)
        removed = []
        while len(cache) > self.units_max:
            gone = Placed(*cache.popitem(last=False))
            removed.append(gone)
            self.holders[gone.unit].discard(engine)
            if not self.holders[gone.unit]:
                del self.holders[gone.unit]
        return removed, stored


def played(prompts: Iterable[Units], units_max: int) -> Traffic:
    fleet, turns, most = Fleet(units_max), [], 0
    for prompt in prompts:
        turns.append(fleet.serve(prompt))
        most = max(most, len(fleet.holders))
    return Traffic(turns, most)


def trace(path: Path) -> Iterator[Units]:
    """Mooncake's: one JSON object a line, hash_ids of 512 tokens each."""
    with path.open() as file:
        for line in file:
            yield json.loads(line)["hash_ids"]


def zipf(n: int, chats: int, seed: int = 1) -> Iterator[Units]:
    """Chats of 8 to 40 units, asked for again and again: the first most, the k-th 1/k as often."""
    random = np.random.default_rng(seed)
    lengths = random.integers(8, 41, chats)
    weight = 1 / np.arange(1, chats + 1)
    for chat in random.choice(chats, n, p=weight / weight.sum()):
        yield range(int(chat) * 64, int(chat) * 64 + int(lengths[chat]))


def scanned(n: int, chats: int, seed: int = 2) -> Iterator[Units]:
    """The same, and after every 500 of them 250 prompts that never come back."""
    once = chats * 64
    for i, prompt in enumerate(zipf(n, chats, seed)):
        yield prompt
        if i % 500 == 499:
            for _ in range(250):
                yield range(once, once + 24)
                once += 64
