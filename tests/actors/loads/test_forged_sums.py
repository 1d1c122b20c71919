"""Frames of peers that are broken, forged or mad: taken for what they are, or counted; own loads stay."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import numpy as np
import pytest

from kvatlas.actors.loads.peers import PEERS_MAX, Peers
from kvatlas.actors.loads.sums import LoadRow, decode_sums
from kvatlas.actors.orders import RouterReport, decode
from kvatlas.index._native import LoadBook
from kvatlas.index.errors import DecodeError
from tests.actors.loads.books import PODS, frame, loads, reserve

OWN, OTHER = 7, 8


def raw(*fields: Any) -> bytes:
    return b"kvl1" + msgspec.msgpack.encode(fields)


@pytest.mark.parametrize(
    "told",
    [
        b"",
        b"kvl",
        b"kvl1",
        b"kvl2" + msgspec.msgpack.encode([OTHER, 1, True, False, []]),
        b"kvl1" + b"\xdd\xff\xff\xff\xff",
        b"kvl1" + b"\x91" * 5000,
        b"kvl1" + b"\xc7\xff" * 50,
        raw(),
        raw(OTHER, 1, True, False),
        raw("x", 1, True, False, []),
        raw(0, 1, True, False, []),
        raw(-1, 1, True, False, []),
        raw((1 << 64) - 1, 1, True, False, []),
        raw(OTHER, 1.5, True, False, []),
        raw(OTHER, 1, 1, 0, []),
        raw(OTHER, 1, True, False, [["a"]]),
        raw(OTHER, 1, True, False, [["a", -1, 0.0, 0.0, 0]]),
        raw(OTHER, 1, True, False, [["a", 1 << 32, 0.0, 0.0, 0]]),
        raw(OTHER, 1, True, False, [["a", 5000, 0.0, 0.0, 0]]),
        raw(OTHER, 1, True, False, [["a", 0, -1.0, 0.0, 0]]),
        raw(OTHER, 1, True, False, [["a", 0, float("nan"), 0.0, 0]]),
        raw(OTHER, 1, True, False, [["a", 0, 0.0, float("inf"), 0]]),
        raw(OTHER, 1, True, False, [["a", 0, 0.0, 0.0, 1 << 40]]),
        raw(OTHER, 1, True, False, [["a", 0, 1e300, 0.0, 1]]),
        raw(OTHER, 1, True, False, [["a", 0, 0.0, 0.0, 0]] * 65_537),
    ],
    ids=lambda told: repr(told)[:40],
)
def test_what_is_no_frame_is_counted_and_changes_nothing(told: bytes) -> None:
    book = LoadBook(100)
    reserve(book, "a", "mine")
    before = loads(book)
    peers = Peers(book, OWN, silent_s_max=3.0)
    peers.take(told, PODS, 1.0)
    assert peers.counts["bad_frames"] == 1 and len(peers) == 0
    assert loads(book) == before


def test_frames_that_were_flipped_anywhere_never_end_the_thread_that_takes_them() -> None:
    rng = random.Random(5)
    book = LoadBook(100)
    reserve(book, "a", "mine")
    own = loads(book)
    peers = Peers(book, OWN, silent_s_max=3.0)
    whole = frame(OTHER, 1, LoadRow("a", 0, 50.0, 60.0, 2), LoadRow("b", 1, 5.0, 6.0, 1), whole=True)
    for _ in range(5000):
        told = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            told[rng.randrange(len(told))] = rng.randrange(256)
        if rng.random() < 0.2:
            del told[rng.randrange(len(told)) :]
        peers.take(bytes(told), PODS, 1.0)
    assert len(peers) <= PEERS_MAX and peers.counts["bad_frames"] > 1000
    peers.expire(100.0)
    assert len(peers) == 0 and loads(book) == own


def test_routers_that_are_made_up_are_bounded_and_leave_nothing() -> None:
    book = LoadBook(100)
    peers = Peers(book, OWN, silent_s_max=3.0)
    for router in range(100, 100 + 3 * PEERS_MAX):
        peers.take(frame(router, 1, LoadRow("a", 0, 1.0, 1.0, 1)), PODS, 1.0)
    assert len(peers) == PEERS_MAX and peers.counts["refused"] == 2 * PEERS_MAX
    assert loads(book) == {"a": (PEERS_MAX, PEERS_MAX, PEERS_MAX)}
    peers.expire(100.0)
    assert loads(book) == {}


def test_a_frame_in_our_own_name_is_not_taken() -> None:
    book = LoadBook(100)
    peers = Peers(book, OWN, silent_s_max=3.0)
    peers.take(frame(OWN, 1, LoadRow("a", 0, 50.0, 0.0, 2)), PODS, 1.0)
    assert loads(book) == {} and len(peers) == 0


def test_the_largest_sums_of_all_routers_add_up_and_go_again_to_the_token() -> None:
    book = LoadBook(100)
    reserve(book, "a", "mine")
    own = loads(book)
    peers = Peers(book, OWN, silent_s_max=3.0)
    most = 1e12
    for router in range(100, 1100):
        peers.take(frame(router, 1, LoadRow("a", 0, most, most, (1 << 32) - 1)), PODS, 1.0)
    assert peers.counts["bad_frames"] == 0 and np.isfinite(loads(book)["a"]).all()
    for router in range(100, 1100):
        peers.take(frame(router, 2, whole=True), PODS, 1.0)
    assert loads(book) == own


def test_ranks_that_nobody_has_do_not_use_up_the_book() -> None:
    book = LoadBook(100)
    peers = Peers(book, OWN, silent_s_max=3.0)
    for rank in range(0, 1 << 32, 1 << 20):
        row = LoadRow("a", rank, 1.0, 1.0, 1)
        peers.take(frame(OTHER, rank + 1, row), PODS, 1.0)
    assert book.statistics()["slots"] <= 1 and peers.counts["bad_frames"] == 4095


def test_numbers_beyond_the_last_are_refused_by_the_decoder() -> None:
    with pytest.raises(DecodeError, match="at least 0"):
        decode_sums(raw(OTHER, 1, True, False, [["a", 0, 2e12, 0.0, 1]]))


def test_a_name_that_is_no_utf8_is_no_frame_of_any_kind() -> None:
    named = frame(OTHER, 1, LoadRow("a", 0, 1.0, 1.0, 1)).replace(b"\xa1a", b"\xa1\xff")
    with pytest.raises(DecodeError, match="sums of a router"):
        decode_sums(named)
    with pytest.raises(DecodeError, match="RouterReport"):
        decode(b"\x88\xa6number\x01\xa8endpoint\xa1\xff", RouterReport)
