"""Delta records by shard and by lane, beside the same in plain Python."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.index import _native
from kvatlas.index._native import SEGMENT_BLOCKS, lanes_of, route
from kvatlas.index.errors import InputError
from tests.models.table import ADD, CLEAR_LANE, CLOSE, OPEN, REMOVE, NaiveTable, Record, delta, shard_of
from tests.models.world import chain

keys = st.integers(0, 2**64 - 1)
lanes = st.integers(0, 65_534)
changes = st.builds(
    Record,
    st.sampled_from([ADD, REMOVE]),
    lanes,
    st.integers(1, 63),
    st.lists(keys, max_size=4).map(tuple),
    keys,
)
marks = st.builds(Record, st.sampled_from([CLEAR_LANE, CLOSE, OPEN]), lanes, st.just(0))
records = st.lists(changes | marks, max_size=30)


@given(records, st.sampled_from([1, 2, 3, 4, 7, 64, 1024]))
def test_each_record_goes_to_the_shard_of_its_segment_and_marks_go_to_all(
    told: list[Record], n_shards: int
) -> None:
    expected = [b""] * n_shards
    for record in told:
        has_keys = record.op in (ADD, REMOVE)
        to = [shard_of(record.segment_key, n_shards)] if has_keys else range(n_shards)
        for shard in to:
            expected[shard] += record.packed()
    assert route(delta(told), n_shards) == expected


@given(keys, st.integers(1, 5_000))
def test_the_native_hash_of_segments_is_the_plain_one(key: int, n_shards: int) -> None:
    assert _native.shard_of(key, n_shards) == shard_of(key, n_shards)


@given(records)
def test_the_lanes_of_a_delta_are_those_that_its_records_name(told: list[Record]) -> None:
    assert lanes_of(delta(told)) == sorted({record.lane for record in told})


def test_a_routed_chain_is_found_by_a_match_over_as_many_shards() -> None:
    """What a mirror of one shard gathers, routed, is what a mirror of many would have sent."""
    blocks = chain(1_000, 3)
    told = b""
    for at in range(0, len(blocks), SEGMENT_BLOCKS):
        segment = tuple(blocks[at : at + SEGMENT_BLOCKS].tolist())
        told += Record(ADD, 9, 1, segment, segment[0]).packed()
    tables = [_native.Table() for _ in range(5)]
    for table, part in zip(tables, route(told + Record(CLOSE, 9, 0).packed(), 5), strict=True):
        table.apply(part)
    roster = _native.Roster()
    roster.set(0, [9], [])
    workers, held, *_ = _native.Index(tables, roster).match(blocks)
    assert (workers.tolist(), held.tolist()) == ([0], [1_000])
    for table in tables:
        table.close()


@pytest.mark.parametrize("n_shards", [0, 1025])
def test_a_number_of_shards_that_cannot_be_is_refused(n_shards: int) -> None:
    with pytest.raises(InputError, match="n_shards: expected 1 to 1024"):
        route(b"", n_shards)


@given(st.binary(max_size=120))
def test_bytes_that_no_table_would_apply_are_neither_routed_nor_read(data: bytes) -> None:
    table, model = _native.Table(), NaiveTable()
    try:
        table.apply(data)
    except InputError:
        with pytest.raises(InputError, match="delta at byte"):
            route(data, 3)
        with pytest.raises(InputError, match="delta at byte"):
            lanes_of(data)
    else:
        assert len(route(data, 3)) == 3
    assert model.masks == {}
    table.close()
