"""Fields of llm-d's hashes, byte for byte."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.index.errors import InputError
from kvatlas.index.remote.llmd.entries import ENTRY_BYTES_MAX, PodEntry, decode_entry, encode_entry

GOLDEN = b'{"PodIdentifier":"p","DeviceTier":"gpu","Speculative":false,"HasGroup":false,"GroupIdx":0}'


def test_a_field_is_as_go_writes_it() -> None:
    assert encode_entry("p", 1) == GOLDEN
    assert encode_entry("10.0.0.1:8000", 2, 3) == (
        b'{"PodIdentifier":"10.0.0.1:8000","DeviceTier":"cpu","Speculative":false,"HasGroup":true,"GroupIdx":3}'
    )
    assert encode_entry("p", 32).count(b'"DeviceTier":"gpu","Speculative":true') == 1
    assert [json.loads(encode_entry("p", bit))["DeviceTier"] for bit in (4, 8, 16)] == [
        "disk",
        "storage",
        "unknown",
    ]


@pytest.mark.parametrize(
    ("pod", "written"),
    [
        ('a"b\\c', rb"a\"b\\c"),
        ("<a>&b", rb"\u003ca\u003e\u0026b"),
        ("\n\r\t\b\f\x01\x7f", b"\\n\\r\\t\\b\\f\\u0001\x7f"),
        ("\u2028\u2029", rb"\u2028\u2029"),
        ("pöd-\U0001f600", "pöd-\U0001f600".encode()),
        ("a\udcffb", rb"a\ufffdb"),
    ],
)
def test_names_are_escaped_as_go_escapes_them(pod: str, written: bytes) -> None:
    assert encode_entry(pod, 1) == GOLDEN.replace(b'"p"', b'"' + written + b'"')


@given(
    st.text(min_size=1, max_size=40), st.sampled_from([1, 2, 4, 8, 16, 32]), st.none() | st.integers(0, 63)
)
def test_what_is_written_is_read_as_it_was(pod: str, bit: int, group: int | None) -> None:
    entry = decode_entry(encode_entry(pod, bit, group))
    assert entry is not None
    assert (entry.pod, entry.tier_bit, entry.group) == (pod, bit, group)


def test_another_order_other_cases_and_members_that_we_do_not_know_are_read() -> None:
    told = (
        b' {"groupidx": 2, "HASGROUP": true, "New": {"a": [1]}, '
        b'"devicetier": "CPU", "podIdentifier": "p", "Speculative": null}'
    )
    assert decode_entry(told) == PodEntry("p", "CPU", False, 2)
    assert decode_entry(b'{"PodIdentifier":"p"}') == PodEntry("p", "", False, None)
    assert PodEntry("p", "CPU").tier_bit == 2


def test_a_tier_without_a_name_of_ours_is_unknown_and_what_is_speculative_only_that() -> None:
    entry = PodEntry("p", "nvme")
    assert (entry.tier_bit, entry.has_known_tier) == (16, False)
    assert PodEntry("p", "", True).tier_bit == 32


@pytest.mark.parametrize(
    "field",
    [
        b"",
        b"pod@gpu",
        b"[]",
        b"null",
        b'{"PodIdentifier":1}',
        b'{"PodIdentifier":""}',
        b'{"DeviceTier":"gpu"}',
        b'{"PodIdentifier":"p","Speculative":1}',
        b'{"PodIdentifier":"p","HasGroup":true,"GroupIdx":1.5}',
        b'{"PodIdentifier":"p","GroupIdx":true}',
        b'{"PodIdentifier":"p","GroupIdx":99999999999999999999}',
        b'{"PodIdentifier":"p"',
        b'{"PodIdentifier":"\xff"}',
        b"[" * 1000,
        b'{"PodIdentifier":"' + b"p" * ENTRY_BYTES_MAX + b'"}',
    ],
)
def test_what_is_no_entry_is_none(field: bytes) -> None:
    assert decode_entry(field) is None


@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_an_error(field: bytes) -> None:
    entry = decode_entry(field)
    assert entry is None or entry.pod


def test_a_name_that_is_too_long_is_refused() -> None:
    with pytest.raises(InputError, match="at most 1024 bytes"):
        encode_entry("p" * 1000, 1)
