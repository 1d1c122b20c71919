"""Matching beside a walk in plain Python: long chains, closed lanes, stores, groups, shards."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from kvatlas.index._native import SEGMENT_BLOCKS, segment_key_of, segment_tag, shard_of
from kvatlas.index.errors import InputError
from kvatlas.index.keys import block_keys
from kvatlas.index.shards import Matches, ShardedIndex
from tests.models.table import ADD, CLEAR_LANE, CLOSE, OPEN, REMOVE, Record
from tests.models.world import CPU, GPU, STORAGE, World, chain


def as_runs(matches: Matches) -> dict[int, tuple[int, list[int]]]:
    rows = zip(matches.workers.tolist(), matches.blocks.tolist(), matches.tier_blocks.tolist(), strict=True)
    return {worker: (blocks, tiers) for worker, blocks, tiers in rows}


def expected(
    world: World, keys: npt.NDArray[np.uint64], workers: dict[int, tuple[list[int], list[int]]]
) -> dict[int, tuple[int, list[int]]]:
    runs = {}
    for worker, (lanes, stores) in workers.items():
        run = world.walk(keys, lanes, stores)
        if run:
            runs[worker] = (len(run), [run.count(1 << tier) for tier in range(5)])
    return runs


@pytest.mark.parametrize("shards", [1, 3, 8])
def test_prefix_closed_lanes_are_matched_as_by_a_walk(shards: int) -> None:
    """Every lane holds prefixes of a tree of chains and says so: segments may be skipped."""
    rnd = random.Random(shards)
    world = World(shards)
    stem = np.random.default_rng(1).integers(0, 150_000, 300 * 16, dtype=np.uint32)
    branches = [
        block_keys(np.concatenate([stem[: cut * 16], np.full(400 * 16, cut, np.uint32)]), model="m")
        for cut in (0, 1, 127, 128, 129, 200, 300)
    ]
    workers: dict[int, tuple[list[int], list[int]]] = {}
    for lane in range(24):
        workers[lane] = ([lane], [])
        world.index.roster.set(lane, [lane], [])
        for branch in rnd.sample(branches, 3):
            world.tell(ADD, lane, branch[: rnd.choice([1, 2, 127, 128, 129, 255, 256, 257, 511, 640])], GPU)
        world.mark(CLOSE, lane)
    for branch in branches:
        assert as_runs(world.index.match(branch)) == expected(world, branch, workers)
    probed = world.index.match(branches[0]).slots_probed
    assert probed < len(branches[0]), "a closed segment is not looked at block by block"
    world.index.close()


@pytest.mark.parametrize("shards", [1, 5])
def test_a_lane_that_opens_before_a_hole_is_made_is_walked(shards: int) -> None:
    world, keys = World(shards), chain(512, 7)
    world.index.roster.set(0, [0], [])
    world.tell(ADD, 0, keys, GPU)
    world.mark(CLOSE, 0)
    assert world.index.match(keys).blocks.tolist() == [512]
    world.mark(OPEN, 0)
    hole = keys[200:201]
    for table in world.index.tables:
        table.apply(Record(REMOVE, 0, GPU, (int(hole[0]),), int(keys[128])).packed())
    assert world.index.match(keys).blocks.tolist() == [200]
    world.index.close()


@pytest.mark.parametrize("seed", range(12))
def test_any_mix_of_lanes_groups_and_stores_is_matched_as_by_a_walk(seed: int) -> None:
    rnd = random.Random(seed)
    world = World(rnd.choice([1, 2, 7]))
    chains = [chain(n, seed * 10 + n) for n in (5, 130, 400)]
    workers: dict[int, tuple[list[int], list[int]]] = {}
    for worker in range(10):
        lanes = [3 * worker, 3 * worker + 1][: rnd.choice([1, 1, 2])]
        stores = rnd.sample([90, 91], rnd.choice([0, 0, 1, 2]))
        workers[worker] = (lanes, stores)
        world.index.roster.set(worker, lanes, stores)
    for _ in range(60):
        keys = rnd.choice(chains)
        lane = rnd.choice([90, 91] + [lane for lanes, _ in workers.values() for lane in lanes])
        tier = STORAGE if lane >= 90 else rnd.choice([GPU, GPU, CPU])
        end = rnd.choice([1, 4, 100, len(keys)])
        first = rnd.choice([0, 0, 0, end // 2])
        world.tell(rnd.choice([ADD, ADD, ADD, REMOVE]), lane, keys[:end], tier, first)
        if rnd.random() < 0.1:
            world.mark(CLEAR_LANE, lane)
    for keys in chains:
        assert as_runs(world.index.match(keys)) == expected(world, keys, workers)
        some = bytearray(worker % 3 == 0 for worker in range(8))
        chosen = {worker: workers[worker] for worker in range(8) if some[worker]}
        assert as_runs(world.index.match(keys, some)) == expected(world, keys, chosen)
    world.index.close()


def test_a_worker_that_left_the_roster_is_not_matched() -> None:
    world, keys = World(1), chain(3, 1)
    world.index.roster.set(4, [9], [])
    world.tell(ADD, 9, keys, GPU)
    assert world.index.match(keys).workers.tolist() == [4]
    world.index.roster.set(4, [], [])
    assert world.index.match(keys).workers.tolist() == []
    world.index.close()


def test_sixty_five_thousand_lanes_hold_one_block() -> None:
    world, keys = World(1), chain(1, 2)
    for lane in range(0, 65_535, 1_000):
        world.index.roster.set(lane, [lane], [])
        world.tell(ADD, lane, keys, GPU)
    assert sorted(world.index.match(keys).workers.tolist()) == list(range(0, 65_535, 1_000))
    world.index.close()


def test_a_chain_touches_one_shard_a_segment_and_few_keys_move_when_shards_are_added() -> None:
    keys = chain(128 * 160, 3)[::SEGMENT_BLOCKS].tolist()
    assert {shard_of(key, 1) for key in keys} == {0}
    before, after = ([shard_of(key, n) for key in keys] for n in (8, 9))
    moved = sum(a != b for a, b in zip(before, after, strict=True))
    assert all(b == 8 for a, b in zip(before, after, strict=True) if a != b), "only to the new shard"
    assert moved < 40
    assert len(set(before)) == 8


def test_a_tag_stands_for_its_segment() -> None:
    for key in [0, 1, 2**64 - 1, *chain(128 * 64, 5)[::SEGMENT_BLOCKS].tolist()]:
        stand_in = segment_key_of(segment_tag(key))
        assert segment_tag(stand_in) == segment_tag(key)
        assert shard_of(stand_in, 1000) == shard_of(key, 1000)


def test_bad_arguments_are_refused_with_what_was_expected() -> None:
    index = ShardedIndex(2)
    signed: Any = np.array([1, 2], np.int64)
    with pytest.raises(InputError, match="uint64"):
        index.match(signed)
    with pytest.raises(InputError, match="2 buffers"):
        index.apply([b""])
    with pytest.raises(InputError, match="65535"):
        index.roster.set(0, [65_535], [])
    with pytest.raises(InputError, match="1 to 1024"):
        ShardedIndex(0)
    index.close()
