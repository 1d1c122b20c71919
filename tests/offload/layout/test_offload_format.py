"""docs/offload_format.md says what the code does."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import pytest

from kvatlas.offload import _native
from kvatlas.offload.layout.fingerprint import SpaceFields
from kvatlas.offload.layout.reading import read_head
from tests.models.crc32c import crc32c

PAGE = (Path(__file__).parents[3] / "docs" / "offload_format.md").read_text(encoding="utf-8")
LETTERS = {"u32": "I", "u64": "Q", "i64": "q"}
VALUES: dict[str, Any] = {
    "magic": b"KVCHUNK\n",
    "version": 1,
    "head_bytes": 4096,
    "payload_bytes": 123_456_789_012,
    "blocks": 16,
    "valid_blocks": 11,
    "fingerprint": bytes(range(16)),
    "writer": bytes(range(50, 66)),
    "written_ms": -5,
    "payload_crc32c": 0xFEDCBA98,
    "key_bytes": 36,
    "key": bytes(range(200, 236)),
}


def rows(first: str) -> list[list[str]]:
    """The cells of the table whose head begins with a word."""
    table = PAGE[PAGE.index(f"\n| {first} |") + 1 :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


def head_of_the_page() -> bytes:
    """A head made after the table alone."""
    page = bytearray()
    for at, n_bytes, kind, name, *_ in rows("at"):
        assert int(at) == len(page)
        value: Any = VALUES.get(name.strip("`"), b"")
        if name == "`head_crc32c`":
            value = crc32c(bytes(page))
        page += (
            struct.pack(f"<{LETTERS[kind]}", value) if kind in LETTERS else value.ljust(int(n_bytes), b"\0")
        )
        assert len(page) == int(at) + int(n_bytes)
    return bytes(page)


def test_a_head_made_after_the_page_is_the_one_that_is_written_and_is_read() -> None:
    fields = {
        name: value
        for name, value in VALUES.items()
        if name not in ("magic", "version", "head_bytes", "key_bytes")
    }
    page = head_of_the_page()
    assert len(page) == _native.HEAD_BYTES and page == _native.encode_head(**fields)
    for head in (_native.read_head(page), read_head(page)):
        assert {name: getattr(head, name) for name in fields} == fields


def test_the_fields_of_the_page_are_those_of_a_fingerprint_in_their_order() -> None:
    named = [name for cells in rows("field") for name in re.findall(r"`(\w+)`", cells[0])]
    assert named == list(SpaceFields.__struct_fields__)


@pytest.mark.parametrize(
    ("key", "name"), [[cell.strip("` ") for cell in cells] for cells in rows("key, in hex")]
)
def test_names_of_the_page_are_those_of_their_keys(key: str, name: str) -> None:
    assert _native.chunk_name(bytes.fromhex(key)) == name
    assert _native.chunk_key(name) == bytes.fromhex(key)


def test_bounds_of_the_page_are_those_of_the_code() -> None:
    assert f"5 to {_native.KEY_BYTES_MAX}" in PAGE and f"| {_native.FORMAT_VERSION} |" in PAGE
