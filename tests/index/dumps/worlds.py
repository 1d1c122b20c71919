"""Contents for tests: what lanes hold, as sets, from tables, models and content records."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from kvatlas.index._native import Table, content_of, shard_of
from kvatlas.index.groups import Group
from kvatlas.index.shards import ShardedIndex
from kvatlas.index.view import FleetPart, WorkerView
from tests.models.table import ADD, NaiveTable, Record, delta

Held = dict[tuple[int, int], int]
"""Tier bits by (lane, key)."""


def held_by(sections: Iterable[bytes]) -> Held:
    """What content records say, read with numpy and nothing else of the code."""
    held: Held = {}
    for section in sections:
        content = content_of(section)
        for key, of_set in zip(content.keys.tolist(), content.sets.tolist(), strict=True):
            for element in content.elements[
                content.set_begins[of_set] : content.set_begins[of_set + 1]
            ].tolist():
                held[element >> 8, key] = held.get((element >> 8, key), 0) | (element & 0xFF)
    return held


def held_in(model: NaiveTable) -> Held:
    return {(lane, key): tiers for key, lanes in model.masks.items() for lane, tiers in lanes.items()}


def segment_keys(segment: int, n: int = 128) -> tuple[int, ...]:
    """Block keys of a segment, as good as hashes."""
    rng = np.random.default_rng(segment)
    return tuple(rng.integers(1, 2**63, size=n).tolist())


def added(lane: int, segment: int, tier: int = 1, n: int = 128) -> Record:
    keys = segment_keys(segment, n)
    return Record(ADD, lane, tier, keys, keys[0])


def apply_all(index: ShardedIndex, records: Iterable[Record]) -> None:
    """Each record to the shard of its segment, those without keys to all."""
    parts: list[list[Record]] = [[] for _ in index.tables]
    for record in records:
        if record.keys:
            parts[shard_of(record.segment_key, index.n_shards)].append(record)
        else:
            for part in parts:
                part.append(record)
    index.apply([delta(part) for part in parts])


def filled(table: Table, records: Iterable[Record]) -> Table:
    table.apply(delta(records))
    return table


def part_of(pods: dict[str, int], stores: dict[str, int] | None = None, model: str = "m") -> FleetPart:
    """Pods of one worker and one group each, by lane."""
    workers = tuple(
        WorkerView(number=lane, pod=pod, rank=0, model=model, groups=(Group(lane),))
        for pod, lane in pods.items()
    )
    return FleetPart(block_sizes={model: 16}, workers=workers, stores=stores or {})
