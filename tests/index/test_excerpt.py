"""Excerpts: matched as the tables that they are of, and refused when they are none."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.index._native import SEGMENT_BLOCKS, Excerpt, Index, Source, Table, excerpt, shard_of
from kvatlas.index.errors import DecodeError, InputError
from kvatlas.index.shards import ShardedIndex
from tests.models.fleet import BLOCK, random_world
from tests.models.table import ADD, CLEAR_LANE, CLOSE, OPEN, REMOVE, TIER_BITS, Record, delta
from tests.models.world import GPU, World, chain

pytestmark = pytest.mark.native

Keys = npt.NDArray[np.uint64]
HEADER = struct.Struct("<4sHHIIIIII")

some_keys = st.integers(0, 40).map(lambda i: i * 0x9E3779B97F4A7C15 % 2**64)
changes = st.builds(
    Record,
    st.sampled_from([ADD, ADD, REMOVE]),
    st.sampled_from([0, 1, 7, 300, 65_534]),
    st.sampled_from([*TIER_BITS, 3, 63]),
    st.lists(some_keys, max_size=12).map(tuple),
)
marks = st.builds(Record, st.sampled_from([CLEAR_LANE, CLOSE]), st.sampled_from([0, 1, 7]))
tables = st.lists(changes | changes | marks, max_size=25)


def array(keys: Sequence[int]) -> Keys:
    return np.array(keys, np.uint64)


def held_by(source: Source, keys: Keys) -> list[dict[int, int]]:
    return [dict(lanes) for lanes in source.lookup(keys)]


def through_excerpts(index: ShardedIndex, keys: Keys) -> Excerpt:
    """As a reader elsewhere gets it: of each shard the segments that lie in it."""
    wanted: list[list[Keys]] = [[] for _ in index.tables]
    for at in range(0, len(keys), SEGMENT_BLOCKS):
        wanted[index.shard_of(int(keys[at]))].append(keys[at : at + SEGMENT_BLOCKS])
    parts = [np.concatenate([array([]), *segments]) for segments in wanted]
    return Excerpt(parts, [excerpt(table, part) for table, part in zip(index.tables, parts, strict=True)])


def rows(found: tuple[Any, ...]) -> dict[int, tuple[int, list[int], bool]]:
    workers, blocks, tiers, _probed, partial = found
    return {
        worker: (int(blocks[i]), tiers[i].tolist(), i in partial) for i, worker in enumerate(workers.tolist())
    }


@given(tables, st.lists(some_keys, max_size=60))
def test_an_excerpt_says_of_its_keys_what_the_table_says_and_of_others_nothing(
    told: list[Record], asked: list[int]
) -> None:
    table, keys = Table(), array(asked)
    table.apply(delta(told))
    source = Excerpt([keys], [excerpt(table, keys)])
    assert held_by(source, keys) == held_by(table, keys)
    others = array([key for key in range(2, 20) if key not in asked])
    assert not any(held_by(source, others))
    assert excerpt(source, keys) == excerpt(table, keys)
    table.close()


@given(st.integers(0, 2**32), st.sampled_from([1, 2, 5, 8]), st.sampled_from([3, 40, 130, 300]))
def test_any_fleet_is_matched_over_excerpts_as_over_the_tables(seed: int, shards: int, n_blocks: int) -> None:
    rnd = random.Random(seed)
    world, keys, members, _masks = random_world(rnd, shards, n_blocks)
    asked = keys[: rnd.randint(1, n_blocks)]
    source = through_excerpts(world.index, asked)
    over_tables = Index(world.index.tables, world.index.roster)
    over_excerpts = Index([source] * shards, world.index.roster)
    tokens = len(asked) * BLOCK + rnd.choice([0, 1, BLOCK - 1])
    some = bytearray(rnd.randint(0, 1) for _ in members)
    for allowed in (None, some):
        for prompt in ((0, 0), (tokens, BLOCK)):
            over_both = [rows(index.match(asked, allowed, *prompt)) for index in (over_excerpts, over_tables)]
            assert over_both[0] == over_both[1]
    world.index.close()


def test_prompts_asked_together_are_matched_each_for_itself() -> None:
    """Keys that two prompts share are asked twice."""
    world = World(3)
    blocks = chain(600, 1)
    world.index.roster.set(0, [0], [])
    world.tell(ADD, 0, blocks[:500], GPU)
    source = through_excerpts(world.index, np.concatenate([blocks, blocks[:200]]))
    index = Index([source] * 3, world.index.roster)
    for n in (1, 200, 500, 600):
        assert index.match(blocks[:n])[1].tolist() == [min(n, 500)]
    world.index.close()


@pytest.mark.parametrize("open_in", [0, 1])
def test_closed_lanes_are_skipped_over_an_excerpt_too_unless_a_shard_says_they_are_open(open_in: int) -> None:
    world, blocks = World(2), chain(2_000, 3)
    world.index.roster.set(0, [0], [])
    world.tell(ADD, 0, blocks, GPU)

    def probed() -> int:
        index = Index([through_excerpts(world.index, blocks)] * 2, world.index.roster)
        _workers, held, _tiers, slots_probed, _partial = index.match(blocks)
        assert held.tolist() == [2_000]
        return slots_probed

    assert probed() >= 2_000
    world.mark(CLOSE, 0)
    assert probed() < 100
    world.index.tables[open_in].apply(Record(OPEN, 0).packed())
    assert probed() >= 2_000
    world.index.close()


def test_it_is_whole_when_every_source_said_so() -> None:
    keys, tables = array([5]), [Table(), Table()]

    def is_whole() -> bool:
        return Excerpt([keys, keys], [excerpt(table, keys) for table in tables]).whole

    assert not is_whole()
    tables[0].set_whole(True)
    assert not is_whole()
    tables[1].set_whole(True)
    assert is_whole()
    tables[0].set_whole(False)
    assert not is_whole()
    assert Excerpt([], []).whole
    for table in tables:
        table.close()


def test_matches_tell_which_segments_they_used() -> None:
    world, blocks = World(1), chain(300, 4)
    world.index.roster.set(0, [0], [])
    world.tell(ADD, 0, blocks, GPU)
    source = through_excerpts(world.index, blocks)
    for _ in range(100):  # one use in four is told, by chance
        Index([source], world.index.roster).match(blocks)
    told = source.take_touched().tolist()
    assert 30 < len(told) < 150
    assert set(told) == set(blocks[::SEGMENT_BLOCKS].tolist())
    assert source.take_touched().tolist() == []
    world.index.close()


@pytest.mark.slow
def test_a_block_that_very_many_lanes_hold_keeps_them_all() -> None:
    table, lanes = Table(), range(0, 65_535, 7)
    table.apply(delta(Record(ADD, lane, 1, (9,)) for lane in lanes))
    source = Excerpt([array([9])], [excerpt(table, array([9]))])
    assert held_by(source, array([9])) == [dict.fromkeys(lanes, 1)]
    table.close()


@pytest.mark.slow
def test_keys_that_are_chosen_to_collide_cost_time_and_nothing_else() -> None:
    """All of one home: what finds no slot counts as not held."""
    inverse = pow(0x9E3779B97F4A7C15, -1, 2**64)
    mixed = [i * inverse % 2**64 for i in range(1, 6_000)]  # multiplied they are small numbers
    keys = array([key ^ (key >> 32) for key in mixed])
    table = Table()
    table.apply(Record(ADD, 1, 1, tuple(keys.tolist())).packed())
    source = Excerpt([keys], [excerpt(table, keys)])
    found = [lanes for lanes in held_by(source, keys) if lanes]
    assert found
    assert all(lanes == {1: 1} for lanes in found)
    table.close()


GOOD_KEYS = array([3, 4, 5, 6])


def good() -> bytes:
    table = Table()
    told = [Record(ADD, 7, 1, (3, 4)), Record(ADD, 9, 2, (4, 5)), Record(CLOSE, 7)]
    table.apply(delta(told))
    answer = excerpt(table, GOOD_KEYS)
    table.close()
    return answer


def changed(at: int, form: str, value: object) -> bytes:
    answer = bytearray(good())
    struct.pack_into(form, answer, at, value)
    return bytes(answer)


LANES_AT = HEADER.size
SETS_AT = LANES_AT + 2 * 4
ELEMENTS_AT = SETS_AT + 3 * 4
RUNS_AT = ELEMENTS_AT + 4 * 4


def test_the_bytes_are_those_of_the_format() -> None:
    answer = good()
    assert HEADER.unpack_from(answer) == (b"kvax", 1, 0, 4, 2, 3, 4, 4, 0)
    assert struct.unpack_from("<2I", answer, LANES_AT) == (7 | 1 << 24, 9)
    assert struct.unpack_from("<3I", answer, SETS_AT) == (1, 2, 1)
    assert struct.unpack_from("<4I", answer, ELEMENTS_AT) == (1, 1, 1 << 8 | 2, 1 << 8 | 2)
    assert struct.unpack_from("<8I", answer, RUNS_AT) == (1, 1, 2, 1, 3, 1, 0, 1)
    assert len(answer) == RUNS_AT + 8 * 4


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"", "header of 32 bytes, got 0"),
        (good()[:31], "header of 32 bytes, got 31"),
        (good()[:-1], "bytes as its header says"),
        (good() + b"\0", "bytes as its header says"),
        (changed(0, "<4s", b"kvat"), "expected an excerpt"),
        (changed(4, "<H", 2), "version 1, got 2"),
        (changed(8, "<I", 5), "4 keys, got one to 5"),
        (changed(LANES_AT, "<I", 9), "ascending lanes"),
        (changed(LANES_AT + 4, "<I", 65_535), "ascending lanes"),
        (changed(LANES_AT + 4, "<I", 9 | 1 << 25), "ascending lanes"),
        (changed(SETS_AT, "<I", 0), "sets of 1 lane"),
        (changed(SETS_AT, "<I", 2**32 - 1), "all its elements"),
        (changed(ELEMENTS_AT, "<I", 2 << 8 | 1), "elements of its lanes"),
        (changed(ELEMENTS_AT, "<I", 0 << 8 | 0), "tiers"),
        (changed(ELEMENTS_AT, "<I", 0 << 8 | 64), "tiers"),
        (changed(ELEMENTS_AT + 8, "<I", 0 << 8 | 1), "ascending elements"),
        (changed(RUNS_AT, "<I", 4), "set 4"),
        (changed(RUNS_AT + 4, "<I", 0), "runs of its sets"),
        (changed(RUNS_AT + 4, "<I", 2), "runs over 4 keys, got 5"),
        (changed(RUNS_AT + 4, "<I", 2**32 - 1), "runs over 4 keys"),
    ],
)
def test_what_no_table_would_answer_is_refused_and_told_which_part_it_was(answer: bytes, says: str) -> None:
    assert Excerpt([GOOD_KEYS], [good()]).lookup(GOOD_KEYS) == [[(7, 1)], [(7, 1), (9, 2)], [(9, 2)], []]
    with pytest.raises(DecodeError, match=rf"excerpts\[1\]: .*{says}"):
        Excerpt([GOOD_KEYS, GOOD_KEYS], [good(), answer])


def test_as_many_answers_as_questions_are_expected() -> None:
    with pytest.raises(InputError, match="expected 2, one for each part of the keys, got 1"):
        Excerpt([GOOD_KEYS, GOOD_KEYS], [good()])
    with pytest.raises(InputError, match="keys_parts: expected"):
        Excerpt(cast(Any, [np.zeros(4, np.int32)]), [good()])


@given(st.data(), tables, st.lists(some_keys, min_size=1, max_size=20))
def test_any_damage_is_refused_or_leaves_a_source_that_can_be_matched(
    data: st.DataObject, told: list[Record], asked: list[int]
) -> None:
    table, keys = Table(), array(asked)
    table.apply(delta(told))
    answer = bytearray(excerpt(table, keys))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(answer) - 1))
        answer[at] = data.draw(st.sampled_from([0, 1, 2, 127, 128, 255]))
    end = data.draw(st.sampled_from([len(answer), len(answer), len(answer) - 1, len(answer) // 2]))
    try:
        source = Excerpt([keys], [bytes(answer[:end])])
    except DecodeError:
        pass
    else:
        assert len(source.lookup(keys)) == len(keys)
        index = ShardedIndex(1)
        index.roster.set(0, [0, 1], [7])
        Index([source], index.roster).match(keys, None, len(keys) * 16, 16)
        index.close()
    table.close()


@given(st.binary(max_size=300), st.lists(some_keys, max_size=4))
def test_any_bytes_are_refused_or_an_empty_answer(data: bytes, asked: list[int]) -> None:
    with pytest.raises(DecodeError):
        Excerpt([array(asked)], [data])


def test_the_shard_of_a_key_is_asked_and_no_other() -> None:
    """The helper of these tests sends each segment where a match looks for it."""
    world, blocks = World(4), chain(1_000, 9)
    shards = {shard_of(int(key), 4) for key in blocks[::SEGMENT_BLOCKS]}
    assert len(shards) > 1
    world.index.roster.set(0, [0], [])
    world.tell(ADD, 0, blocks, GPU)
    source = through_excerpts(world.index, blocks)
    assert Index([source] * 4, world.index.roster).match(blocks)[1].tolist() == [1_000]
    world.index.close()
