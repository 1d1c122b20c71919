"""Content records: round trips beside a table of dicts, other lanes, other shards, bytes that are none."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.index._native import (
    Table,
    content_of,
    deltas_of,
    load_content,
    renamed,
    sections_of,
    snapshot,
)
from kvatlas.index.errors import DumpError, InputError
from kvatlas.index.shards import ShardedIndex
from tests.index.dumps.worlds import added, apply_all, filled, held_by, held_in, segment_keys
from tests.models.table import ADD, CLEAR_LANE, CLOSE, REMOVE, NaiveTable, Record, delta

pytestmark = pytest.mark.native

KEYS = [0, 1, 2, 3, *(i * 0x9E3779B97F4A7C15 % 2**64 for i in range(1, 9))]
LANES = [0, 1, 2, 64, 65_534]
CRC_AT = 28

keys = st.lists(st.sampled_from(KEYS), max_size=8).map(tuple)
lanes = st.sampled_from(LANES)
changes = st.builds(Record, st.sampled_from([ADD, ADD, REMOVE]), lanes, st.sampled_from([1, 2, 3, 32]), keys)
records = st.lists(changes | changes | st.builds(Record, st.just(CLEAR_LANE), lanes), max_size=12)


def one_section(table: Table) -> bytes:
    (section,) = snapshot([table])[0].sections()
    return section


def with_checksum(section: bytes | bytearray) -> bytes:
    crc = zlib.crc32(section[32:], zlib.crc32(section[:CRC_AT]))
    return bytes(section[:CRC_AT]) + struct.pack("<I", crc) + bytes(section[32:])


@given(records, st.integers(1, 4))
def test_a_snapshot_says_what_dicts_hold(told: list[Record], keys_max: int) -> None:
    table, model = filled(Table(), told), NaiveTable()
    for record in told:
        model.apply(record)
    (taken,) = snapshot([table])
    sections = list(taken.sections(keys_max))
    assert held_by(sections) == held_in(model)
    assert taken.entries == len(model.masks) == sum(content_of(one).entries for one in sections)
    assert taken.pairs == len(held_in(model))
    assert all(content_of(one).entries <= keys_max for one in sections)
    assert content_of(sections[0]).lanes == taken.lanes


@given(records, records, st.integers(1, 3))
def test_loading_replaces_the_lanes_that_are_named_and_no_others(
    told: list[Record], before: list[Record], keys_max: int
) -> None:
    source, target = filled(Table(), told), filled(Table(), before)
    model, expected = NaiveTable(), NaiveTable()
    for record in told:
        model.apply(record)
    for record in before:
        expected.apply(record)
    (taken,) = snapshot([source])
    load_content([target], taken.sections(keys_max))
    for lane in taken.lanes:
        expected.apply(Record(CLEAR_LANE, lane))
    for (lane, key), tiers in held_in(model).items():
        expected.apply(Record(ADD, lane, tiers, (key,)))
    assert held_by(snapshot([target])[0].sections()) == held_in(expected)


@pytest.mark.parametrize("n_shards", [1, 3, 7])
def test_content_of_three_shards_is_the_same_content_in_any_number(n_shards: int) -> None:
    source, target = ShardedIndex(3), ShardedIndex(n_shards)
    told = [added(lane, segment, 1 << lane % 3) for segment in range(60) for lane in range(segment % 4 + 1)]
    apply_all(source, told)
    target.load(source.export())
    assert held_by(target.export()) == held_by(source.export()) != {}
    asked = np.array(segment_keys(7), np.uint64)
    assert target.lookup(asked) == source.lookup(asked)
    for table, statistics in zip(target.tables, target.statistics(), strict=True):
        assert statistics["entries"] == snapshot([table])[0].entries
    # Where segments were kept, each shard finds what is told to it later.
    apply_all(target, [Record(REMOVE, one.lane, one.tier, one.keys, one.segment_key) for one in told])
    assert held_by(target.export()) == {}


def test_deltas_of_a_record_say_the_same_as_the_record() -> None:
    source = filled(Table(), [added(lane, segment, lane + 1) for segment in range(9) for lane in range(3)])
    section = one_section(source)
    target = ShardedIndex(4)
    target.apply(deltas_of(section, n_shards=4))
    assert held_by(target.export()) == held_by([section])
    (some,) = deltas_of(section, {1: 9})
    of_lane_one = {(9, key): tiers for (lane, key), tiers in held_by([section]).items() if lane == 1}
    assert held_by([one_section(filled_by(some))]) == of_lane_one


def filled_by(told: bytes) -> Table:
    table = Table()
    table.apply(told)
    return table


def test_renamed_lanes_keep_what_they_hold_and_the_others_are_left_out() -> None:
    section = one_section(
        filled(Table(), [added(0, 1), added(1, 1), added(1, 2, 2), Record(CLOSE, 1), added(2, 3)])
    )
    other = renamed(section, {1: 0, 0: 500})
    assert sorted(content_of(other).lanes) == [0, 500]
    assert content_of(other).closed == [0]
    expected = {({1: 0, 0: 500}[lane], key): t for (lane, key), t in held_by([section]).items() if lane != 2}
    assert held_by([other]) == expected
    assert content_of(renamed(section, {})).entries == 0
    with pytest.raises(InputError, match="two lanes for 5"):
        renamed(section, {0: 5, 1: 5})


def test_closed_lanes_are_closed_after_a_load_and_lossy_ones_are_not() -> None:
    closed_and_lossy = sections_of(
        [1, 2, 3],
        np.array([7], np.uint64),
        np.array([0], np.uint32),
        np.array([0], np.uint32),
        np.array([3], np.uint32),
        np.array([1 << 8 | 1, 2 << 8 | 1, 3 << 8 | 1], np.uint32),
        closed=[1, 2],
        lossy=[2],
    )
    table = Table()
    load_content([table], closed_and_lossy)
    told = content_of(one_section(table))
    assert (told.closed, told.lossy) == ([1], [2])
    # What is marked as closed later stays open where something of it was lost.
    table.apply(delta([Record(CLOSE, 2), Record(CLOSE, 3)]))
    assert content_of(one_section(table)).closed == [1, 3]


def test_a_lane_is_closed_only_where_every_record_that_names_it_says_so() -> None:
    tables = [
        filled(Table(), [added(1, 1), Record(CLOSE, 1), Record(CLOSE, 2)]),
        filled(Table(), [added(1, 2), added(2, 2), Record(CLOSE, 2)]),
    ]
    target = Table()
    load_content([target], [section for one in snapshot(tables) for section in one.sections()])
    assert content_of(one_section(target)).closed == [2]


def test_lanes_that_hold_nothing_are_emptied_by_a_load() -> None:
    source = filled(Table(), [added(4, 1), Record(REMOVE, 4, 1, segment_keys(1))])
    target = filled(Table(), [added(4, 2), added(5, 2)])
    load_content([target], snapshot([source])[0].sections())
    assert {lane for lane, _ in held_by([one_section(target)])} == {5}


def test_an_error_in_the_middle_of_a_load_changes_nothing() -> None:
    sections = list(snapshot([filled(Table(), [added(0, 1), added(1, 2)])])[0].sections(keys_max=50))
    assert len(sections) > 3
    tables = [filled(Table(), [added(0, 7)]), Table()]
    before = [held_by([one_section(table)]) for table in tables]
    for broken in ([*sections[:2], sections[2][:-1]], [*sections[:2], None]):
        with pytest.raises((DumpError, InputError)):
            load_content(tables, broken)  # type: ignore[arg-type]
    assert [held_by([one_section(table)]) for table in tables] == before
    tables[0].replace([0], b"")  # nobody waits for the load any more
    load_content(tables, sections)
    assert {lane for table in tables for lane, _ in held_by([one_section(table)])} == {0, 1}


@pytest.mark.slow
def test_a_thousand_lanes_of_a_block_are_one_set_in_the_record_and_in_the_table() -> None:
    keys = np.array(segment_keys(1, 1000), np.uint64)
    elements = np.arange(1, 256_001, 256, dtype=np.uint32)
    nothing = np.zeros(1000, np.uint32)
    sections = sections_of(range(1000), keys, nothing, nothing, np.array([1000], np.uint32), elements)
    assert sum(map(len, sections)) < 20_000
    table = Table()
    load_content([table], sections)
    (taken,) = snapshot([table])
    assert (taken.entries, taken.pairs) == (1000, 1_000_000)
    assert table.statistics()["sets"] == 1
    assert held_by(taken.sections()) == held_by(sections)


def test_records_hold_no_more_pairs_than_the_bound_says() -> None:
    elements = np.arange(1, 256 * 60_000, 256, dtype=np.uint32)
    nothing = np.zeros(100, np.uint32)
    keys = np.arange(1, 101, dtype=np.uint64)
    sections = sections_of(range(60_000), keys, nothing, nothing, np.array([60_000], np.uint32), elements)
    assert [content_of(one).entries for one in sections] == [69, 31]


def test_blocks_without_known_segments_go_to_one_shard_only() -> None:
    nothing = np.zeros(2, np.uint32)
    (section,) = sections_of(
        [3], np.array([1, 2], np.uint64), None, nothing, np.array([1], np.uint32), np.array([769], np.uint32)
    )
    assert not content_of(section).knows_tags
    load_content([Table()], [section])
    for refused in (
        lambda: load_content([Table(), Table()], [section]),
        lambda: deltas_of(section, n_shards=2),
    ):
        with pytest.raises(DumpError, match="knows the segments"):
            refused()
    assert not content_of(renamed(section, {3: 4})).knows_tags


def test_arrays_that_do_not_fit_each_other_are_refused() -> None:
    good = {
        "lanes": [3],
        "keys": np.array([1, 2], np.uint64),
        "tags": np.zeros(2, np.uint32),
        "sets": np.zeros(2, np.uint32),
        "set_sizes": np.array([1], np.uint32),
        "elements": np.array([3 << 8 | 1], np.uint32),
    }
    sections_of(**good)  # type: ignore[arg-type]
    for wrong in (
        {"lanes": [65_535]},
        {"lanes": [4]},
        {"tags": np.zeros(1, np.uint32)},
        {"sets": np.ones(2, np.uint32)},
        {"set_sizes": np.array([2], np.uint32)},
        {"set_sizes": np.array([0, 1], np.uint32)},
        {"elements": np.array([3 << 8], np.uint32)},
        {"elements": np.array([3 << 8 | 64], np.uint32)},
        {"keys_max": 0},
    ):
        with pytest.raises(InputError):
            sections_of(**{**good, **wrong})  # type: ignore[arg-type]


@given(st.data())
def test_any_change_of_a_byte_and_any_cut_is_refused(data: st.DataObject) -> None:
    section = one_section(filled(Table(), [added(0, 1, n=3), added(1, 1, n=2), added(1, 2, 2, n=3)]))
    at = data.draw(st.integers(0, len(section) - 1))
    flipped = bytearray(section)
    flipped[at] ^= data.draw(st.integers(1, 255))
    for broken in (bytes(flipped), section[:at], section + b"\0"):
        with pytest.raises(DumpError, match=r"content record at byte \d+: expected"):
            content_of(broken)


@given(st.data())
def test_a_record_with_a_right_checksum_is_whole_or_refused(data: st.DataObject) -> None:
    """Whoever forges one gets a DumpError, or a content that can be loaded; never a crash."""
    section = bytearray(
        one_section(filled(Table(), [added(0, 1, n=3), added(1, 1, n=2), added(1, 2, 2, n=3)]))
    )
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(4, len(section) // 4 - 1)) * 4
        word = data.draw(st.sampled_from([0, 1, 2, 3, 255, 256, 65_535, 2**20, 2**30, 2**31, 2**32 - 1]))
        struct.pack_into("<I", section, at, word)
    forged = with_checksum(section)
    try:
        content = content_of(forged)
    except DumpError:
        return
    table = Table()
    load_content([table], [forged])
    assert held_by([one_section(table)]) == {
        (lane, key or 1): tiers for (lane, key), tiers in held_by([forged]).items()
    }
    assert len(deltas_of(forged)[0]) <= 32 * content.pairs
    renamed(forged, {lane: lane for lane in content.lanes})


def test_huge_counts_are_refused_by_what_the_bytes_can_hold() -> None:
    header = struct.pack("<4sHHIIIII", b"kvac", 1, 0, 2**32 - 1, 2**32 - 1, 2**32 - 1, 2**32 - 1, 2**20)
    with pytest.raises(DumpError, match="as its header says"):
        content_of(with_checksum(header + b"\0\0\0\0"))


def test_another_version_is_named() -> None:
    section = bytearray(one_section(filled(Table(), [added(0, 1)])))
    struct.pack_into("<H", section, 4, 2)
    with pytest.raises(DumpError, match="byte 4: expected format version 1, got 2"):
        content_of(with_checksum(section))
