"""The checksum: each way that this processor has, beside a bit-by-bit one."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.index.errors import InputError
from kvatlas.offload._native import copy_crc32c, crc32c, crc32c_ways
from tests.models import crc32c as model

pytestmark = pytest.mark.native

WAYS = crc32c_ways()
RNG = random.Random(7)
POOL = RNG.randbytes(1 << 20)

# RFC 3720, B.4
KNOWN = [
    (b"123456789", 0xE3069283),
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
    (b"", 0),
]


def test_the_table_is_always_there_and_each_way_has_a_name_of_its_own() -> None:
    assert WAYS[0] == "table" and len(set(WAYS)) == len(WAYS)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("data", "crc"), KNOWN)
def test_known_values_come_out(way: str, data: bytes, crc: int) -> None:
    assert crc32c(data, way=way) == crc == crc32c(data)
    assert model.crc32c(data) == crc


@pytest.mark.parametrize("way", WAYS)
def test_every_length_up_to_three_strides_agrees_with_the_model(way: str) -> None:
    """The state after each byte is the CRC of the bytes so far: the model is run once."""
    crc, n = 0, 1600
    for length in range(n):
        assert crc32c(POOL[:length], way=way) == crc, length
        crc = model.crc32c(POOL[length : length + 1], crc)


@pytest.mark.parametrize("way", WAYS)
@given(data=st.data())
def test_any_cut_at_any_alignment_goes_on_where_the_first_part_ended(way: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, 200))
    length = data.draw(st.integers(0, 5000))
    cut = data.draw(st.integers(0, length))
    whole = memoryview(POOL)[start : start + length]
    assert crc32c(whole[cut:], crc32c(whole[:cut], way=way), way=way) == model.crc32c(bytes(whole))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("length", [0, 1, 63, 64, 511, 512, 4096, 262_143, 262_144, 262_145 + 64, 700_001])
@pytest.mark.parametrize("offset", [0, 1, 16, 48])
def test_a_copy_is_whole_touches_nothing_else_and_has_the_same_checksum(
    way: str, length: int, offset: int
) -> None:
    source = memoryview(POOL)[offset : offset + length]
    page = np.full(length + 4096 + 128, 0xA5, np.uint8)
    start = -page.ctypes.data % 64 + offset
    target = page.data[start : start + length]
    assert copy_crc32c(target, source, way=way) == crc32c(source, way="table")
    assert target == source
    assert (page[:start] == 0xA5).all() and (page[start + length :] == 0xA5).all()


@pytest.mark.parametrize("way", WAYS)
def test_one_flipped_bit_anywhere_in_a_chunk_is_seen(way: str) -> None:
    chunk = bytearray(POOL[:65_536])
    right = crc32c(chunk, way=way)
    for _ in range(200):
        bit = RNG.randrange(len(chunk) * 8)
        chunk[bit // 8] ^= 1 << bit % 8
        assert crc32c(chunk, way=way) != right
        chunk[bit // 8] ^= 1 << bit % 8
    assert crc32c(chunk, way=way) == right


def test_what_is_no_buffer_of_the_right_size_is_refused() -> None:
    with pytest.raises(InputError, match="data: expected bytes"):
        crc32c("text")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="way: expected one of"):
        crc32c(b"", way="guess")
    with pytest.raises(InputError, match="to: expected 3 bytes, got 2"):
        copy_crc32c(bytearray(2), b"abc")
    with pytest.raises(InputError, match="to: expected a writable buffer"):
        copy_crc32c(b"abc", b"abc")
