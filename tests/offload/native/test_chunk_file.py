"""Heads of chunk files: the native writer and reader beside the one in plain Python."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.index.errors import InputError, StoreError
from kvatlas.offload import _native
from kvatlas.offload.layout import reading
from tests.models import crc32c as model

pytestmark = pytest.mark.native

FINGERPRINT, WRITER = bytes(range(16)), bytes(range(16, 32))
KEY = bytes(range(100, 136))
READERS: list[Callable[[bytes], Any]] = [_native.read_head, reading.read_head]
heads = st.fixed_dictionaries(
    {
        "key": st.binary(min_size=5, max_size=68),
        "fingerprint": st.binary(min_size=16, max_size=16),
        "writer": st.binary(min_size=16, max_size=16),
        "payload_bytes": st.integers(1, 1 << 40),
        "payload_crc32c": st.integers(0, 2**32 - 1),
        "written_ms": st.integers(-(2**63), 2**63 - 1),
    }
)


def page(**changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "key": KEY,
        "fingerprint": FINGERPRINT,
        "writer": WRITER,
        "payload_bytes": 10_000,
        "payload_crc32c": 0x12345678,
        "written_ms": 1_700_000_000_123,
        "blocks": 8,
        "valid_blocks": 3,
    }
    return _native.encode_head(**{**fields, **changes})


def sealed(changed: bytes) -> bytes:
    """With a head's checksum that is right again."""
    return changed[:-4] + struct.pack("<I", model.crc32c(changed[:-4]))


def with_bytes(at: int, new: bytes) -> bytes:
    old = page()
    return sealed(old[:at] + new + old[at + len(new) :])


def test_a_head_has_exactly_the_bytes_that_the_format_says() -> None:
    expected = (
        b"KVCHUNK\n"
        + struct.pack("<IIQII", 1, 4096, 10_000, 8, 3)
        + FINGERPRINT
        + WRITER
        + struct.pack("<qII", 1_700_000_000_123, 0x12345678, 36)
        + KEY
        + bytes(128 - 36)
        + bytes(4096 - 208 - 4)
    )
    assert page() == expected + struct.pack("<I", model.crc32c(expected))


@given(fields=heads, data=st.data())
def test_both_readers_read_what_was_written(fields: dict[str, Any], data: st.DataObject) -> None:
    blocks = data.draw(st.integers(1, 2**32 - 1))
    fields |= {"blocks": blocks, "valid_blocks": data.draw(st.integers(1, blocks))}
    written = _native.encode_head(**fields)
    for read in READERS:
        head = read(written)
        assert {name: getattr(head, name) for name in fields} == fields


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (bytes(4096), "magic|does not begin"),
        (with_bytes(0, b"KVCHUNK\r"), "magic|does not begin"),
        (with_bytes(8, struct.pack("<I", 2)), "version"),
        (with_bytes(12, struct.pack("<I", 8192)), "head_bytes|of another size"),
        (with_bytes(16, struct.pack("<Q", 0)), "payload_bytes|payload's size"),
        (with_bytes(16, struct.pack("<Q", (1 << 40) + 1)), "payload_bytes|payload's size"),
        (with_bytes(28, struct.pack("<I", 0)), "valid|numbers of blocks"),
        (with_bytes(28, struct.pack("<I", 9)), "valid|numbers of blocks"),
        (with_bytes(76, struct.pack("<I", 4)), "key_bytes|key's length"),
        (with_bytes(76, struct.pack("<I", 69)), "key_bytes|key's length"),
        (with_bytes(76, struct.pack("<I", 2**32 - 1)), "key_bytes|key's length"),
        (with_bytes(80 + 36, b"\1"), "zero"),
        (with_bytes(208, b"\1"), "zero"),
        (with_bytes(4091, b"\1"), "zero"),
    ],
)
def test_both_readers_refuse_what_they_do_not_know_and_say_why(
    read: Any, changed: bytes, reason: str
) -> None:
    with pytest.raises(StoreError, match=reason):
        read(changed)


@given(at=st.integers(0, 4096 * 8 - 1))
def test_both_readers_refuse_a_head_with_any_bit_flipped(at: int) -> None:
    flipped = bytearray(page())
    flipped[at // 8] ^= 1 << at % 8
    for read in READERS:
        with pytest.raises(StoreError):
            read(bytes(flipped))


@given(
    patches=st.lists(
        st.tuples(st.integers(0, 215), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4
    )
)
def test_any_other_fields_under_a_right_checksum_are_refused_or_read_alike(
    patches: list[tuple[int, bytes]],
) -> None:
    changed = page()
    for at, new in patches:
        changed = changed[:at] + new + changed[at + len(new) :]
    results: list[tuple[object, ...] | None] = []
    for read in READERS:
        try:
            head = read(sealed(changed))
            results.append((head.key, head.payload_bytes, head.blocks, head.valid_blocks, head.written_ms))
        except StoreError:
            results.append(None)
    assert results[0] == results[1]


def test_a_page_that_is_too_short_is_refused() -> None:
    with pytest.raises(InputError, match="page: expected 4096 bytes, got 100"):
        _native.read_head(page()[:100])
    with pytest.raises(StoreError, match="4096 bytes of head, got 100"):
        reading.read_head(page()[:100])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"key": bytes(4)}, "key: expected 5 to 68 bytes, got 4"),
        ({"key": bytes(69)}, "key: expected 5 to 68 bytes, got 69"),
        ({"fingerprint": bytes(15)}, "fingerprint: expected 16 bytes"),
        ({"writer": bytes(17)}, "writer: expected 16 bytes"),
        ({"payload_bytes": 0}, "payload_bytes: expected 1 to"),
        ({"valid_blocks": 9}, r"valid_blocks: expected 1 to blocks \(8\), got 9"),
    ],
)
def test_a_head_that_nobody_could_read_is_not_written(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        page(**changes)


@pytest.mark.parametrize(
    ("payload", "size"), [(1, 8192), (4096, 8192), (4097, 12288), (2 << 20, (2 << 20) + 4096)]
)
def test_a_file_is_a_head_and_whole_pages(payload: int, size: int) -> None:
    assert _native.file_bytes(payload) == size
