"""Frames between routers: what is read, what is refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.actors.loads.sums import LoadRow, LoadSums, decode_sums, encode_sums
from kvatlas.index.errors import DecodeError

_amounts = st.floats(0, 1e12, allow_nan=False)
_rows = st.builds(LoadRow, st.text(), st.integers(0, 255), _amounts, _amounts, st.integers(0, 1 << 20))


@given(
    st.builds(
        LoadSums,
        st.integers(1, 1 << 62),
        st.integers(0, 1 << 40),
        st.booleans(),
        st.booleans(),
        st.lists(_rows, max_size=5).map(tuple),
    )
)
def test_what_one_router_tells_the_other_reads(sums: LoadSums) -> None:
    assert decode_sums(encode_sums(sums)) == sums


@given(st.binary(max_size=200))
def test_bytes_that_are_no_frame_are_refused(data: bytes) -> None:
    for frame in (data, b"kvl1" + data):
        try:
            decode_sums(frame)
        except DecodeError:
            continue
        assert frame.startswith(b"kvl1")


@pytest.mark.parametrize(
    "row",
    [
        LoadRow("a", 0, math.nan, 0.0, 0),
        LoadRow("a", 0, 0.0, math.inf, 0),
        LoadRow("a", 0, -1.0, 0.0, 0),
        LoadRow("a", 0, 0.0, 0.0, -1),
        LoadRow("a", -1, 0.0, 0.0, 0),
        LoadRow("a", 0, 0.0, 0.0, 1 << 40),
    ],
)
def test_numbers_that_no_load_can_be_are_refused(row: LoadRow) -> None:
    with pytest.raises(DecodeError, match="at least 0"):
        decode_sums(encode_sums(LoadSums(1, 1, True, False, (row,))))


def test_a_router_without_a_number_is_refused() -> None:
    with pytest.raises(DecodeError):
        decode_sums(encode_sums(LoadSums(0, 1, True, False, ())))
