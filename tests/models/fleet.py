"""Random workers and what they hold of a chain: engines of all kinds, tiers, stores."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvatlas.index.groups import Group, GroupKind
from kvatlas.index.shards import ShardedIndex
from tests.models import reuse
from tests.models.table import CLOSE
from tests.models.world import World, chain

BLOCK = 16
GPU, CPU, DISK, STORAGE, UNKNOWN, SPECULATIVE = 1, 2, 4, 8, 16, 32
STORES = (900, 901)

Row = tuple[int, tuple[int, ...]]
"""Cached tokens, and blocks by tier."""


@dataclass
class Member:
    """A worker of a random fleet."""

    engine: reuse.Engine
    lanes: list[int]
    stores: list[int]

    def tell(self, index: ShardedIndex, number: int) -> None:
        groups = [
            Group(lane, GroupKind(group.kind), group.window, group.block, group.draft)
            for lane, group in zip(self.lanes, self.engine.groups, strict=True)
        ]
        engine = self.engine
        index.roster.set(number, groups, self.stores, engine.chunk_blocks, engine.recomputes, engine.drops)

    def expected(self, masks: dict[int, list[int]], n_blocks: int, tokens: int) -> Row | None:
        stored = [0] * n_blocks
        for store in self.stores:
            stored = [a | b for a, b in zip(stored, masks[store][:n_blocks], strict=True)]
        held = [masks[lane][:n_blocks] for lane in self.lanes]
        cached = [
            h for h, group in zip(held, self.engine.groups, strict=True) if group.kind != reuse.UNCACHED
        ]
        if not any(map(any, [*cached, stored])):
            return None  # an engine of local chunks alone would skip whole chunks that nobody holds
        found = reuse.reuse(self.engine, reuse.Prompt(tokens, BLOCK, held, stored))
        if found.tokens == 0:
            return None
        tiers = [found.tiers.count(1 << column) for column in range(5)]
        return found.tokens, (found.device_tokens // BLOCK, *tiers[1:])


def random_engine(rnd: random.Random) -> reuse.Engine:
    drops = rnd.random() < 0.3
    size = rnd.choice([BLOCK, BLOCK, 2 * BLOCK])
    uneven = rnd.random() < 0.3
    groups = []
    for _ in range(rnd.choice([1, 1, 1, 2, 2, 3])):
        kind = rnd.choice([reuse.FULL] * 4 + [reuse.WINDOW] * 3 + [reuse.LOCAL, reuse.STATE, reuse.UNCACHED])
        block = BLOCK * rnd.choice([1, 2, 3]) if uneven else size
        if kind == reuse.LOCAL and (drops or uneven):
            kind = reuse.FULL  # engines refuse these
        window = rnd.randint(1, 200) if kind == reuse.WINDOW else block * rnd.randint(1, 6)
        if kind not in (reuse.WINDOW, reuse.LOCAL) or rnd.random() < 0.05:
            window = 0
        groups.append(reuse.Group(kind, window, block, drops and rnd.random() < 0.2))
    chunk = rnd.choice([1, 1, 1, 2, 4])
    return reuse.Engine(tuple(groups), chunk, rnd.random() < 0.9, drops)


def random_masks(rnd: random.Random, n_blocks: int, tiers: list[int], unit: int) -> list[int]:
    """Tier masks in whole units: prefixes, suffixes and holes, tier by tier."""
    masks = [0] * n_blocks
    for tier in tiers:
        begin, end, p = 0, n_blocks, rnd.choice([1.0, 0.9, 0.5])
        if rnd.random() < 0.7:
            end = rnd.randint(0, n_blocks)
        if rnd.random() < 0.3:
            begin = rnd.randint(0, n_blocks)
        for at in range(0, n_blocks, unit):
            if begin <= at < end and rnd.random() < p:
                for block in range(at, min(at + unit, n_blocks)):
                    masks[block] |= tier
    return masks


def random_fleet(rnd: random.Random, n_blocks: int) -> tuple[list[Member], dict[int, list[int]]]:
    members: list[Member] = []
    # Files are of whole engine blocks, here of any size of a fleet's.
    masks = {store: random_masks(rnd, n_blocks, [rnd.choice([DISK, STORAGE])], 6) for store in STORES}
    for _ in range(rnd.randint(1, 8)):
        engine = random_engine(rnd)
        first = 10 * len(members)
        stores = rnd.sample(STORES, rnd.choice([0, 0, 0, 1, 2]))
        member = Member(engine, [first + i for i in range(len(engine.groups))], list(stores))
        tiers = rnd.choice([[GPU], [GPU], [GPU, CPU], [CPU, GPU, UNKNOWN], [GPU, SPECULATIVE]])
        for lane, group in zip(member.lanes, engine.groups, strict=True):
            masks[lane] = random_masks(rnd, n_blocks, tiers, group.block // BLOCK)
        members.append(member)
    return members, masks


def is_closed(masks: list[int]) -> bool:
    held = [mask == GPU for mask in masks]
    return all(mask in (0, GPU) for mask in masks) and held == sorted(held, reverse=True)


def random_world(
    rnd: random.Random, shards: int, n_blocks: int
) -> tuple[World, npt.NDArray[np.uint64], list[Member], dict[int, list[int]]]:
    """An index that was told of such a fleet, the chain, its members by worker number, masks by lane."""
    world, keys = World(shards), chain(n_blocks, rnd.randrange(1000))
    members, masks = random_fleet(rnd, n_blocks)
    for lane, held in masks.items():
        world.hold(lane, keys, held)
        if is_closed(held) and rnd.random() < 0.7:
            world.mark(CLOSE, lane)
    for number, member in enumerate(members):
        member.tell(world.index, number)
    return world, keys, members, masks
