"""Short ways to tell an index of chains, and to ask it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from kvatlas.index._native import SEGMENT_BLOCKS, route
from kvatlas.index.block_index import BlockIndex
from kvatlas.index.shards import Matches
from tests.models.table import ADD, CLEAR_LANE, REMOVE, Record
from tests.models.world import GPU

Keys = npt.NDArray[np.uint64]


def blocks(op: int, lane: int, keys: Keys, tier: int = GPU, first: int = 0) -> list[Record]:
    """Blocks of a chain from place `first` on, a record a segment. `keys` begin with the chain."""
    records = []
    for at in range(0, len(keys), SEGMENT_BLOCKS):
        segment = keys[at : at + SEGMENT_BLOCKS].tolist()
        wanted = tuple(segment[max(first - at, 0) :])
        if wanted:
            records.append(Record(op, lane, tier, wanted, segment[0]))
    return records


def packed(records: Iterable[Record]) -> bytes:
    return b"".join(record.packed() for record in records)


def tell(index: BlockIndex, *records: Record) -> None:
    """In one call."""
    index.apply(route(packed(records), index.n_shards))


def add(index: BlockIndex, lane: int, keys: Keys, tier: int = GPU, first: int = 0) -> None:
    tell(index, *blocks(ADD, lane, keys, tier, first))


def remove(index: BlockIndex, lane: int, keys: Keys, tier: int = GPU, first: int = 0) -> None:
    tell(index, *blocks(REMOVE, lane, keys, tier, first))


def cleared(lane: int) -> Record:
    return Record(CLEAR_LANE, lane, 0)


def enroll(index: BlockIndex, *lanes: int) -> None:
    """A plain worker for each lane, of the same number."""
    for lane in lanes:
        index.roster.set(lane, [lane], [])


def runs(matches: Matches) -> dict[int, int]:
    """Blocks by worker."""
    return dict(zip(matches.workers.tolist(), matches.blocks.tolist(), strict=True))


def tiers(matches: Matches) -> dict[int, list[int]]:
    """Blocks by tier, by worker."""
    return dict(zip(matches.workers.tolist(), matches.tier_blocks.tolist(), strict=True))


def held(index: BlockIndex, keys: Keys) -> list[dict[int, int]]:
    """Tier bits by lane, of each block of a chain from its start."""
    found = index.lookup(keys)
    assert all(len({lane for lane, _ in holders}) == len(holders) for holders in found)
    return [dict(holders) for holders in found]
