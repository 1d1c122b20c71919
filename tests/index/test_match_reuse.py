"""What a match calls reusable beside the rules in plain Python: groups, windows, tiers, chunks, shards."""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.index.errors import InputError
from kvatlas.index.groups import Group, GroupKind
from kvatlas.index.keys import block_keys
from kvatlas.index.shards import Matches, ShardedIndex
from tests.models.fleet import BLOCK, CPU, GPU, Row, random_world
from tests.models.table import ADD, CLOSE
from tests.models.world import World, chain

Keys = npt.NDArray[np.uint64]


def as_rows(matches: Matches) -> dict[int, Row]:
    rows = {}
    for i, worker in enumerate(matches.workers.tolist()):
        tokens = int(matches.blocks[i]) * BLOCK - (i in matches.partial_rows)
        rows[worker] = (tokens, tuple(matches.tier_blocks[i].tolist()))
        assert int(matches.blocks[i]) == sum(rows[worker][1])
    return rows


def reusable(index: ShardedIndex, keys: Keys, tokens: int, allowed: bytearray | None = None) -> Matches:
    return index.match(keys, allowed, prompt_tokens=tokens, block_size_tokens=BLOCK, strategy="reusable")


@given(st.integers(0, 2**32), st.sampled_from([1, 2, 5]), st.sampled_from([3, 9, 40, 130, 300]))
def test_reusable_blocks_are_those_of_the_rules(seed: int, shards: int, n_blocks: int) -> None:
    rnd = random.Random(seed)
    world, keys, members, masks = random_world(rnd, shards, n_blocks)
    for asked in {n_blocks, rnd.randint(1, n_blocks), rnd.randint(1, min(n_blocks, 8))}:
        tokens = asked * BLOCK + rnd.choice([0, 0, 1, BLOCK - 1])
        rows = {number: member.expected(masks, asked, tokens) for number, member in enumerate(members)}
        wanted = {number: row for number, row in rows.items() if row is not None}
        assert as_rows(reusable(world.index, keys[:asked], tokens)) == wanted
        some = bytearray(rnd.randint(0, 1) for _ in range(rnd.randint(0, len(members))))
        chosen = {number: row for number, row in wanted.items() if number < len(some) and some[number]}
        assert as_rows(reusable(world.index, keys[:asked], tokens, some)) == chosen
    world.index.close()


def one_worker(groups: list[Group], masks: list[list[int]], stores: int = 0) -> tuple[ShardedIndex, Keys]:
    world, keys = World(1), chain(len(masks[0]), 5)
    for group, held in zip(groups, masks, strict=True):
        world.hold(group.lane, keys, held)
    world.index.roster.set(0, groups, [])
    return world.index, keys


@pytest.mark.parametrize("tokens", [16 * 8, 16 * 8 + 1])
def test_the_last_block_of_a_fully_cached_prompt_is_computed_again(tokens: int) -> None:
    index, keys = one_worker([Group(3)], [[GPU] * 8])
    fits = 7 if tokens == 16 * 8 else 8
    assert as_rows(reusable(index, keys, tokens)) == {0: (16 * fits, (fits, 0, 0, 0, 0))}
    index.roster.set(0, [Group(3)], [], recomputes_last_block=False)
    assert as_rows(reusable(index, keys, tokens)) == {0: (16 * 8, (8, 0, 0, 0, 0))}
    index.close()


def test_an_offloaded_copy_of_the_last_block_is_reused_whole() -> None:
    """As observed on vLLM 0.32 with its offloading connector: all tokens are reported as cached."""
    index, keys = one_worker([Group(3)], [[GPU] * 7 + [GPU | CPU]])
    assert as_rows(reusable(index, keys, 16 * 8)) == {0: (16 * 8, (7, 1, 0, 0, 0))}
    index.close()


def test_device_blocks_behind_an_offloaded_one_are_not_reused() -> None:
    index, keys = one_worker([Group(3)], [[GPU, GPU, CPU, GPU, GPU, CPU]])
    assert as_rows(reusable(index, keys, 100)) == {0: (16 * 3, (2, 1, 0, 0, 0))}
    assert index.match(keys).blocks.tolist() == [6], "the longest prefix takes any tier"
    index.close()


def test_less_than_a_chunk_is_not_loaded() -> None:
    """The chunk that the device's end lies in is asked for whole; what is new of it is too little."""
    index, keys = one_worker([Group(3)], [[GPU, GPU] + [CPU] * 6])
    index.roster.set(0, [Group(3)], [], chunk_blocks=4)
    assert as_rows(reusable(index, keys[:5], 80)) == {0: (16 * 2, (2, 0, 0, 0, 0))}
    assert as_rows(reusable(index, keys, 130)) == {0: (16 * 8, (2, 6, 0, 0, 0))}
    index.close()
    index, keys = one_worker([Group(3)], [[GPU] * 2 + [CPU | GPU] * 2 + [CPU] * 4])
    index.roster.set(0, [Group(3)], [], chunk_blocks=2)
    assert as_rows(reusable(index, keys, 130)) == {0: (16 * 8, (4, 4, 0, 0, 0))}
    index.close()


def test_chunks_whose_last_block_alone_is_known_are_found() -> None:
    """Placeholders name a chunk's last block only; nobody holds the first block of the chain."""
    index, keys = one_worker([Group(3)], [[0, 0, 0, CPU, 0, 0, 0, CPU, 0, 0, 0, 0]])
    index.roster.set(0, [Group(3)], [], chunk_blocks=4)
    assert as_rows(reusable(index, keys, 16 * 12)) == {0: (16 * 8, (0, 8, 0, 0, 0))}
    index.close()


def test_a_window_is_not_monotone() -> None:
    """Both of the last two blocks before 96 tokens are there, none at 112 or 80."""
    full, window = Group(0), Group(1, GroupKind.SLIDING_WINDOW, 32, BLOCK)
    index, keys = one_worker([full, window], [[GPU] * 7, [0, GPU, 0, 0, GPU, GPU, 0]])
    assert as_rows(reusable(index, keys, 113)) == {0: (96, (6, 0, 0, 0, 0))}
    assert as_rows(reusable(index, keys[:5], 81)) == {}
    index.close()


@pytest.mark.parametrize("kind", [GroupKind.SLIDING_WINDOW, GroupKind.CHUNKED_LOCAL])
def test_a_window_of_unknown_size_needs_every_block(kind: GroupKind) -> None:
    full, window = Group(0), Group(1, kind)
    index, keys = one_worker([full, window], [[GPU] * 7, [GPU, GPU, 0, 0, GPU, GPU, GPU]])
    assert as_rows(reusable(index, keys, 113)) == {0: (32, (2, 0, 0, 0, 0))}
    index.close()


def test_the_middle_of_a_segment_is_looked_at_where_a_window_may_lie_in_it() -> None:
    """The full lane is closed and at both ends of the segment; the window's blocks lie between."""
    world, keys = World(1), chain(300, 9)
    full, window = Group(0), Group(1, GroupKind.SLIDING_WINDOW, 17, BLOCK)
    world.hold(0, keys, [GPU] * 300)
    world.mark(CLOSE, 0)
    world.hold(1, keys, [GPU if block == 200 else 0 for block in range(300)])
    world.index.roster.set(0, [full, window], [])
    assert as_rows(reusable(world.index, keys, 300 * BLOCK)) == {0: (201 * BLOCK, (201, 0, 0, 0, 0))}
    world.index.close()


def test_workers_of_one_full_group_are_matched_without_a_look_at_every_block() -> None:
    world, keys = World(2), chain(512, 3)
    for lane in range(6):
        world.hold(lane, keys, [GPU] * (128 * lane) + [0] * (512 - 128 * lane) if lane < 4 else [GPU] * 512)
        world.mark(CLOSE, lane)
        world.index.roster.set(lane, [Group(lane, block_size_tokens=BLOCK)], [])
    found = reusable(world.index, keys, 512 * BLOCK)
    blocks = dict(zip(found.workers.tolist(), found.blocks.tolist(), strict=True))
    assert blocks == {1: 128, 2: 256, 3: 384, 4: 511, 5: 511}
    assert found.slots_probed < 32
    assert reusable(world.index, chain(512, 4), 512 * BLOCK).slots_probed == 1, "a miss is one look"
    world.index.roster.set(7, [Group(8, GroupKind.SLIDING_WINDOW, 64)], [])
    assert reusable(world.index, chain(512, 4), 512 * BLOCK).slots_probed == 512, "unless any may be it"
    world.index.close()


def test_many_workers_with_windows_are_asked_about_a_long_prompt() -> None:
    """More masks than are kept at a time."""
    world, keys = World(3), chain(20_000, 12)
    for worker in range(60):
        groups = [Group(2 * worker), Group(2 * worker + 1, GroupKind.SLIDING_WINDOW, 40, BLOCK)]
        for group in groups:
            world.tell(ADD, group.lane, keys[: worker % 5 + 1], GPU)
        world.index.roster.set(worker, groups, [])
    found = reusable(world.index, keys, 20_000 * BLOCK)
    blocks = dict(zip(found.workers.tolist(), found.blocks.tolist(), strict=True))
    assert blocks == {worker: worker % 5 + 1 for worker in range(60)}
    world.index.close()


def test_a_group_that_holds_several_index_blocks_ends_at_its_own_blocks() -> None:
    tokens = np.arange(16 * 9, dtype=np.uint32)
    keys = block_keys(tokens, model="m")
    world = World(1)
    world.hold(0, keys, [GPU] * 9)
    world.index.roster.set(0, [Group(0, block_size_tokens=4 * BLOCK)], [])
    assert as_rows(reusable(world.index, keys, 16 * 9)) == {0: (128, (8, 0, 0, 0, 0))}
    assert as_rows(reusable(world.index, keys[:8], 128)) == {0: (64, (4, 0, 0, 0, 0))}
    world.index.close()


def test_what_does_not_fit_is_refused_with_what_was_expected() -> None:
    index, keys = one_worker([Group(0)], [[GPU] * 4])
    with pytest.raises(InputError, match="prompt_tokens: expected those of 4 blocks"):
        reusable(index, keys, 63)
    with pytest.raises(InputError, match="block_size_tokens: expected at least 1, got 0"):
        index.match(keys, prompt_tokens=64, strategy="reusable")
    with pytest.raises(InputError, match=r"groups\[1\].kind: expected 0 to 4, got 9"):
        index.roster.set(1, [(1, 0, 0, 0, False), (2, 9, 0, 0, False)], [])
    with pytest.raises(InputError, match=r"groups\[0\]: expected a lane or a Group"):
        index.roster.set(1, [(1, 0)], [])  # type: ignore[list-item]
    with pytest.raises(InputError, match="at most 64, got 65"):
        index.roster.set(1, list(range(65)), [])
    with pytest.raises(InputError, match="chunk_blocks: expected 1 to 1048576, got 0"):
        index.roster.set(1, [1], [], chunk_blocks=0)
    index.close()
