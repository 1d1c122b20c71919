"""The reader against msgpack's own packer and unpacker, and against bytes that are no msgpack."""

from __future__ import annotations

import math
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.ingest.wire.msgpack_reader import NESTING_MAX, BrokenMsgpackError, MsgpackReader
from tests.ingest.wire import wire_forms as wire

texts = st.text(max_size=40) | st.binary(max_size=300).map(
    lambda body: body.decode("utf-8", "surrogateescape")
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | texts
    | st.binary(max_size=300)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=20) | st.dictionaries(texts, inner, max_size=20)
)


def read(reader: MsgpackReader) -> Any:
    kind = reader.peek_kind()
    if kind == "array":
        return [read(reader) for _ in range(reader.read_array_header())]
    if kind == "map":
        return {reader.read_key(): read(reader) for _ in range(reader.read_map_header())}
    if kind == "nil":
        return None if reader.read_nil() else "no nil"
    if kind == "bool":
        return reader.read_raw() == b"\xc3"
    return {
        "int": reader.read_int,
        "float": reader.read_float,
        "str": reader.read_str,
        "bin": reader.read_bin,
    }[kind]()


def same(left: Any, right: Any) -> bool:
    if isinstance(left, float) and math.isnan(left):
        return isinstance(right, float) and math.isnan(right)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(map(same, left.values(), right.values()))
    return type(left) is type(right) and bool(left == right)


def skipped(data: bytes) -> int:
    reader = MsgpackReader(data)
    reader.skip()
    return reader.position


@pytest.mark.slow
@given(values)
def test_what_msgpack_packs_reads_as_the_same(value: Any) -> None:
    packed = msgpack.packb(value, unicode_errors="surrogateescape")
    reader = MsgpackReader(packed)
    assert same(read(reader), value)
    assert reader.position == len(packed)
    assert skipped(packed + b"\xc1") == len(packed)


@pytest.mark.parametrize("code", [-128, -1, 0, 127])
@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 8, 16, 17, 255, 256, 70_000])
def test_every_form_of_an_extension_is_stepped_over_and_not_interpreted(code: int, length: int) -> None:
    for form in wire.ext_forms(code, b"\xff" * length):
        assert MsgpackReader(form).peek_kind() == "ext"
        assert skipped(form) == len(form)


@given(st.integers(-(1 << 63), (1 << 64) - 1) | st.integers(-300, 300))
def test_an_int_is_the_same_in_every_width(value: int) -> None:
    forms = wire.int_forms(value)
    assert forms
    assert {MsgpackReader(form).read_int() for form in forms} == {value}
    assert {msgpack.unpackb(form) for form in forms} == {value}


@pytest.mark.parametrize("length", [0, 31, 32, 255, 256, 65_535, 65_536])
def test_lengths_are_read_in_every_width(length: int) -> None:
    for form in wire.str_forms("x" * length):
        assert MsgpackReader(form).read_str() == "x" * length
    for form in wire.bin_forms(b"x" * length):
        assert MsgpackReader(form).read_bin() == b"x" * length
    for form in wire.array_forms([wire.NIL] * length):
        assert MsgpackReader(form).read_array_header() == length
        assert skipped(form) == len(form)
    for form in wire.map_forms([(wire.NIL, wire.TRUE)] * length):
        assert MsgpackReader(form).read_map_header() == length
        assert skipped(form) == len(form)


@given(st.binary(max_size=60))
def test_any_bytes_are_stepped_over_or_refused_as_msgpack_does(data: bytes) -> None:
    unpacker = msgpack.Unpacker(max_buffer_size=100)
    unpacker.feed(data)
    try:
        unpacker.skip()
    except (msgpack.OutOfData, msgpack.FormatError):
        with pytest.raises(BrokenMsgpackError):
            skipped(data)
    else:
        # msgpack 1.2 takes an extension that claims 2^32 - 1 bytes for an empty one.
        if b"\xc9\xff\xff\xff\xff" not in data:
            assert skipped(data) == unpacker.tell()


@pytest.mark.slow
@given(values, st.data())
def test_every_proper_beginning_of_a_value_is_broken(value: Any, data: st.DataObject) -> None:
    packed = msgpack.packb(value, unicode_errors="surrogateescape")
    n_bytes = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(BrokenMsgpackError, match=r"the end of the bytes at byte \d+"):
        skipped(packed[:n_bytes])


@pytest.mark.parametrize("first", [0xC6, 0xC9, 0xDB, 0xDD, 0xDF])
def test_a_claimed_length_of_4_gib_is_broken_at_once(first: int) -> None:
    with pytest.raises(BrokenMsgpackError, match="the end of the bytes"):
        skipped(bytes([first]) + b"\xff" * 4 + b"\x01" * 10)


def test_the_byte_that_msgpack_never_uses_is_broken() -> None:
    with pytest.raises(BrokenMsgpackError, match="the byte 0xc1 at byte 2"):
        skipped(b"\x92\xc0\xc1")


def test_nesting_ends_at_its_bound_and_never_in_a_recursion_error() -> None:
    assert skipped(wire.nested(NESTING_MAX)) == NESTING_MAX + 1
    assert skipped(wire.nested(NESTING_MAX - 1, b"\x80")) == NESTING_MAX
    for too_deep in (
        wire.nested(NESTING_MAX + 1),
        wire.nested(NESTING_MAX, b"\x90"),
        wire.nested(100_000),
        b"\x81\xc0" * 100_000,
    ):
        with pytest.raises(BrokenMsgpackError, match=f"more than {NESTING_MAX} containers"):
            skipped(too_deep)
