"""Frames between subscribers, readers and shards."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.actors.link import messages
from kvatlas.actors.link.messages import Address, Kind, Message, decode_message
from kvatlas.index.errors import DecodeError, InputError

U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
ADDRESSES = st.builds(Address, U32, U32, U64)
LANES = st.lists(U32, max_size=5)
KEYS = st.lists(U64, max_size=9)
HERE = Address(1, 2, 3)


def same(frame: bytes, kind: Kind, address: Address, session: int = 0, number: int = 0) -> Message:
    """The frame taken apart, when it is what it should be."""
    message = decode_message(frame)
    assert message[:4] == (kind, address, session, number)
    return message


@given(ADDRESSES, U64, U64, LANES, st.binary(max_size=64), st.booleans(), st.booleans())
def test_what_a_subscriber_says_comes_out_as_it_went_in(
    address: Address, session: int, number: int, lanes: list[int], records: bytes, first: bool, last: bool
) -> None:
    same(messages.hello(address, session), Kind.HELLO, address, session)
    delta = same(messages.delta(address, session, number, records), Kind.DELTA, address, session, number)
    assert delta.body == records
    frame = messages.content(address, session, number, lanes, records, first=first, last=last)
    content = same(frame, Kind.CONTENT, address, session, number)
    assert (content.is_first, content.is_last) == (first, last)
    named, rest = messages.content_of(content)
    assert (named, bytes(rest)) == (lanes, records)


@given(ADDRESSES, KEYS)
def test_keys_of_a_reader_come_out_as_they_went_in(address: Address, keys: list[int]) -> None:
    flat = np.array(keys, dtype=np.uint64)
    for frame, kind in (
        (messages.fetch(address, flat), Kind.FETCH),
        (messages.touch(address, flat), Kind.TOUCH),
    ):
        assert messages.keys_of(same(frame, kind, address)).tolist() == keys
        assert messages.is_fetch(frame) == (kind is Kind.FETCH)


@given(ADDRESSES, U64, U64, st.text(), st.booleans())
def test_answers_repeat_whom_they_answer(
    address: Address, session: int, number: int, text: str, flag: bool
) -> None:
    asked = decode_message(messages.hello(address, session))
    same(messages.applied(asked, number), Kind.APPLIED, address, session, number)
    same(messages.resync(asked, number), Kind.RESYNC, address, session, number)
    fenced = same(messages.fenced(asked, text, session_over=flag), Kind.FENCED, address, session)
    assert fenced.is_session_over == flag
    excerpt = same(messages.excerpted(asked, b"x", whole=flag), Kind.EXCERPT, address, session)
    assert (excerpt.is_whole, bytes(excerpt.body)) == (flag, b"x")
    assert text.startswith(fenced.text.rstrip("\ufffd")) or "\ufffd" in text
    same(messages.refused(text, asked), Kind.REFUSED, address, session)


def test_a_frame_is_laid_out_as_the_page_says() -> None:
    frame = messages.content(Address(5, 6, 7), 8, 9, [10, 11], b"rest", first=False)
    expected = struct.pack("<4sBBHIIQQQ", b"kva1", 1, 3, 2, 5, 6, 7, 8, 9) + struct.pack("<III", 2, 10, 11)
    assert frame == expected + b"rest"
    assert messages.HEADER_BYTES == 40
    assert messages.session_bytes(frame) == struct.pack("<Q", 8)


@given(st.binary(max_size=100))
def test_bytes_of_a_stranger_are_refused(data: bytes) -> None:
    for frame in (data, b"kva1" + data, b"kva1\x01" + data):
        try:
            message = decode_message(frame)
        except DecodeError:
            continue
        assert message.kind in Kind
        assert len(frame) == messages.HEADER_BYTES + len(message.body)


@given(st.integers(0, 255), st.integers(0, 255))
def test_other_versions_and_unknown_kinds_are_refused_and_said(version: int, kind: int) -> None:
    frame = b"kva1" + bytes([version, kind]) + messages.hello(HERE, 4)[6:]
    if version != messages.VERSION:
        with pytest.raises(DecodeError, match=f"expected version 1, got {version}$"):
            decode_message(frame)
    elif kind not in [known.value for known in Kind]:
        with pytest.raises(DecodeError, match=f"expected a kind of version 1, got {kind}$"):
            decode_message(frame)
    else:
        assert decode_message(frame).kind == kind


@given(st.integers(0, 39))
def test_a_header_that_is_cut_short_is_refused(length: int) -> None:
    with pytest.raises(DecodeError, match="frame: expected"):
        decode_message(messages.hello(HERE, 4)[:length])


@given(st.integers(0, 2**32 - 1) | st.integers(0, 9), st.binary(max_size=30))
def test_lanes_that_claim_more_than_there_is_cost_nothing(claimed: int, rest: bytes) -> None:
    frame = messages.delta(HERE, 4, 1, struct.pack("<I", claimed) + rest)
    message = decode_message(frame)
    if claimed > len(rest) // 4:
        with pytest.raises(DecodeError, match=r"bytes of lanes, got|at most 65535 lanes, got"):
            messages.content_of(message)
    else:
        lanes, records = messages.content_of(message)
        assert len(lanes) == claimed and len(records) == len(rest) - 4 * claimed


def test_a_part_of_a_key_is_refused() -> None:
    with pytest.raises(DecodeError, match="expected a multiple of 8 bytes, got 9"):
        messages.keys_of(decode_message(messages.fetch(HERE, b"123456789")))


@pytest.mark.parametrize("wrong", [-1, 2**64])
def test_numbers_that_do_not_fit_are_refused(wrong: int) -> None:
    with pytest.raises(InputError, match="frame: "):
        messages.hello(HERE, wrong)


def test_texts_are_cut() -> None:
    asked = decode_message(messages.hello(HERE, 4))
    assert len(decode_message(messages.refused("x" * 100_000, asked)).text) == 1000
    assert decode_message(messages.refused("\udcff")).text == "?"
