"""What somebody else has written into the keys of the fleet ends no thread and hides nobody."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import msgspec
import pytest

from kvatlas import RemoteIndexError
from kvatlas.index.fleet_view import FleetView
from kvatlas.index.groups import Group
from kvatlas.index.remote.fleet.board import Board
from kvatlas.index.remote.fleet.session_part import SessionPart, decode_part, encode_part
from kvatlas.index.view import FleetPart, WorkerView
from tests.index.remote.fleet.test_board import FLEET, LONG_S, new_board
from tests.servers.redis_server import RedisServer

FOREIGN = ["", "x", "-1", "1.5", "nan", "9" * 30, "\x00", "\xff"]


@pytest.fixture
def board(redis_server: RedisServer) -> Board:
    return new_board(redis_server)


@pytest.mark.parametrize("word", FOREIGN)
def test_foreign_fields_are_passed_over(redis_server: RedisServer, board: Board, word: str) -> None:
    session = board.begin("token", LONG_S)
    client = redis_server.client()
    for key in ("sessions", "parts", "held.lanes"):
        client.hset(FLEET + key, word, "x")
    client.zadd(FLEET + "leases", {word: 1})
    heard = board.beat(session, "token", LONG_S, b"part", [], [])
    assert heard.expired == ()
    reading = board.read(None)
    assert (reading.parts, reading.lost) == ({session: b"part"}, frozenset())
    assert reading.sessions == frozenset([session])


@pytest.mark.parametrize("word", ["", "x", "1.5", "nan", "\x00", "\xff"])
def test_a_foreign_version_is_one_clear_error(redis_server: RedisServer, board: Board, word: str) -> None:
    session = board.begin("token", LONG_S)
    redis_server.client().set(FLEET + "version", word)
    for call in (lambda: board.read(None), lambda: board.beat(session, "token", LONG_S, b"p", [], [])):
        with pytest.raises(RemoteIndexError, match="index server"):
            call()


@pytest.mark.parametrize("chunk", ["x", "", "2047", "99999999999", "-7", "1e5"])
def test_chunks_that_are_none_are_neither_lent_nor_emptied(
    redis_server: RedisServer, board: Board, chunk: str
) -> None:
    session = board.begin("token", LONG_S)
    client = redis_server.client()
    client.hset(FLEET + "held.lanes", chunk, session)
    client.zadd(FLEET + "rest.workers", {chunk: 1})
    with pytest.raises(RemoteIndexError, match="index server"):
        board.lease(session, "token", "workers")
    board.end(session, "token")
    assert board.over() == (session, [])


def test_a_session_that_is_none_is_not_buried(redis_server: RedisServer, board: Board) -> None:
    redis_server.client().sadd(FLEET + "over", "x")
    assert board.over() is None


# Parts.

NUMBERS = [-1, 0, 1, 7, 65534, 65535, 65536, 2**31 - 1, 2**31, 2**32, 2**63 - 1, None, True, "", "\x00", 1.5]


def told_part(first: int) -> bytes:
    workers = tuple(
        WorkerView(number=n, pod=f"p{n}", rank=0, model="m", groups=(Group(n),), stores=("nfs",))
        for n in (first, first + 1)
    )
    part = FleetPart(block_sizes={"m": 16}, workers=workers, stores={"nfs": first + 2})
    return encode_part(SessionPart(name="x", is_whole=True, part=part))


def with_a_strange_value(rng: random.Random, told: Any) -> None:
    """Some leaf of the nested lists and maps becomes another."""
    while True:
        place = rng.choice(list(told) if isinstance(told, dict) else range(len(told)))
        if not isinstance(told[place], (list, dict)) or not told[place]:
            told[place] = rng.choice(NUMBERS)
            return
        told = told[place]


@pytest.mark.parametrize("seed", range(8))
def test_a_part_of_anything_is_refused_or_can_be_put_together(seed: int) -> None:
    rng, n_refused = random.Random(seed), 0
    for _ in range(200):
        parts = []
        for first in (0, 2):  # the second names a lane and a worker of the first
            data = msgspec.msgpack.decode(told_part(first))
            with_a_strange_value(rng, data)
            with contextlib.suppress(RemoteIndexError):
                parts.append(decode_part(msgspec.msgpack.encode(data)).part)
        n_refused += 2 - len(parts)
        assert FleetView.of(parts, algorithm="fold64", hash_seed="s").degraded("x").workers() is not None
    assert 0 < n_refused < 400


@pytest.mark.parametrize("seed", range(4))
def test_a_part_with_a_flipped_byte_is_refused_or_read(seed: int) -> None:
    rng, n_refused = random.Random(seed), 0
    for _ in range(500):
        data = bytearray(told_part(1))
        data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            FleetView.of([decode_part(bytes(data)).part], algorithm="fold64", hash_seed="s")
        except RemoteIndexError:
            n_refused += 1
    assert n_refused > 0
