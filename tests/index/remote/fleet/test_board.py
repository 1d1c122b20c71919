"""Sessions, their numbers and their parts, in a real server."""

from __future__ import annotations

import pytest

from kvatlas import ConfigError, RemoteIndexError
from kvatlas.index.remote.connection.connection import RemoteConnection
from kvatlas.index.remote.connection.settings import RemoteSettings
from kvatlas.index.remote.fleet.board import Board, numbers_of
from kvatlas.index.remote.fleet.common_keys import agreed_seed, confirm_seed, known_seed
from kvatlas.index.remote.fleet.settings import CHUNKS_MAX
from kvatlas.index.remote.resync import SessionOver
from tests.servers.redis_server import RedisServer, wait_until

LONG_S = 60.0
FLEET = "{kvatlas:fleet}:"


def new_board(server: RedisServer) -> Board:
    return Board(RemoteConnection(RemoteSettings(url=server.url, timeout_ms=5000)), "kvatlas")


@pytest.fixture
def board(any_server: RedisServer) -> Board:
    return new_board(any_server)


def expire(server: RedisServer, session: int) -> None:
    """Its lease has run out."""
    server.command("ZADD", FLEET + "leases", "1", str(session))


def test_a_part_is_read_where_its_version_is_another_one(board: Board) -> None:
    session = board.begin("token", LONG_S)
    first = board.read(None)
    assert first.sessions == frozenset([session]) and first.parts == {}
    heard = board.beat(session, "token", LONG_S, b"part", [], [])
    assert heard.version > first.version
    told = board.read(first.version)
    assert (told.parts, told.version) == ({session: b"part"}, heard.version)
    assert board.read(told.version).sessions is None


def test_a_part_told_again_is_no_news(board: Board) -> None:
    session = board.begin("token", LONG_S)
    version = board.beat(session, "token", LONG_S, b"part", [], []).version
    assert board.beat(session, "token", LONG_S, b"part", [], []).version == version
    assert board.beat(session, "token", LONG_S, b"", [], []).version == version


def test_numbers_are_lent_once(board: Board) -> None:
    one, two = board.begin("a", LONG_S), board.begin("b", LONG_S)
    lent = [board.lease(one, "a", "lanes"), board.lease(two, "b", "lanes"), board.lease(one, "a", "lanes")]
    numbers = [number for chunk in lent if chunk is not None for number in chunk]
    assert len(numbers) == len(set(numbers)) == 96
    assert board.lease(one, "a", "workers") == numbers_of(0)  # of another kind


def test_there_are_no_more_numbers_than_there_are(any_server: RedisServer, board: Board) -> None:
    session = board.begin("a", LONG_S)
    any_server.command("SET", FLEET + "chunks.lanes", str(CHUNKS_MAX - 1))
    assert board.lease(session, "a", "lanes") == numbers_of(CHUNKS_MAX - 1)
    assert board.lease(session, "a", "lanes") is None


def test_a_session_that_others_have_ended_is_told(any_server: RedisServer, board: Board) -> None:
    one, two = board.begin("a", LONG_S), board.begin("b", LONG_S)
    chunk = board.lease(one, "a", "lanes")
    board.beat(one, "a", LONG_S, b"part", [0], [])
    assert not board.end(one)  # it lives
    expire(any_server, one)
    assert board.read(None).lost == {one}
    assert board.beat(two, "b", LONG_S, b"", [], []).expired == (one,)
    assert board.end(one)
    assert board.read(None).parts == {}
    with pytest.raises(SessionOver, match=f"session {one}"):
        board.beat(one, "a", LONG_S, b"", [0], [])
    with pytest.raises(SessionOver):
        board.lease(one, "a", "lanes")
    assert chunk is not None
    assert board.over() == (one, list(chunk))


def test_a_session_that_is_heard_in_time_is_not_ended(any_server: RedisServer, board: Board) -> None:
    session = board.begin("a", LONG_S)
    expire(any_server, session)
    board.beat(session, "a", LONG_S, b"", [], [])
    assert not board.end(session)


def test_numbers_of_a_session_that_is_over_rest_before_they_are_lent_again(board: Board) -> None:
    one = board.begin("a", LONG_S)
    assert board.lease(one, "a", "lanes") == numbers_of(0)
    assert board.end(one, "a")
    board.free(one, 0.1)
    assert board.over() is None
    two = board.begin("b", LONG_S)
    lent: list[range | None] = []

    def has_rested() -> bool:
        lent.append(board.lease(two, "b", "lanes"))
        return lent[-1] == numbers_of(0)

    wait_until(has_rested)
    assert lent[0] == numbers_of(1)


def test_a_server_that_forgot_everything_issues_no_number_twice(
    any_server: RedisServer, board: Board
) -> None:
    old = board.begin("a", LONG_S)
    version = board.read(None).version
    any_server.flush()
    with pytest.raises(SessionOver):
        board.beat(old, "a", LONG_S, b"part", [], [])
    wait_until(lambda: board.begin("b", LONG_S) > old)
    assert board.read(None).version > version


def test_a_session_whose_numbers_another_holds_is_over(any_server: RedisServer, board: Board) -> None:
    """A server that came back with an older state has lent them again."""
    session = board.begin("a", LONG_S)
    board.lease(session, "a", "lanes")
    any_server.command("HSET", FLEET + "held.lanes", "0", "7")
    with pytest.raises(SessionOver):
        board.beat(session, "a", LONG_S, b"", [0], [])


def test_nobody_is_over_because_the_server_was_away(any_server: RedisServer, board: Board) -> None:
    one, two = board.begin("a", LONG_S), board.begin("b", LONG_S)
    for session in (one, two):
        expire(any_server, session)
    any_server.command("SET", FLEET + "beat", "1")  # nobody was heard since
    assert board.beat(two, "b", LONG_S, b"", [], []).expired == ()
    assert not board.end(one)


def test_parts_can_be_told_while_memory_is_full(any_server: RedisServer, board: Board) -> None:
    session = board.begin("a", LONG_S)
    any_server.command("CONFIG", "SET", "maxmemory", "1")
    try:
        board.beat(session, "a", LONG_S, b"the server is full", [], [])
        assert board.read(None).parts == {session: b"the server is full"}
        assert board.begin("b", LONG_S) > session
    finally:
        any_server.command("CONFIG", "SET", "maxmemory", "0")


def test_something_else_in_the_place_of_a_key_is_one_clear_error(
    any_server: RedisServer, board: Board
) -> None:
    any_server.command("SET", FLEET + "sessions", "x")
    with pytest.raises(RemoteIndexError, match="WRONGTYPE"):
        board.begin("a", LONG_S)
    with pytest.raises(RemoteIndexError, match="WRONGTYPE"):
        board.read(None)


def test_a_server_that_is_down_is_an_error(any_server: RedisServer, board: Board) -> None:
    any_server.stop()
    try:
        with pytest.raises(RemoteIndexError):
            board.read(None)
    finally:
        any_server.start()


# What all key with.


def test_the_first_makes_a_seed_that_the_others_find(any_server: RedisServer, board: Board) -> None:
    seed = agreed_seed(board, "fold64", None)
    other = new_board(any_server)
    assert len(seed) == 32
    assert agreed_seed(other, "fold64", None) == seed
    assert known_seed(other, None) == ("fold64", seed)


def test_a_seed_that_is_given_is_not_in_the_server(any_server: RedisServer, board: Board) -> None:
    assert agreed_seed(board, "fold64", "secret words") == "secret words"
    told = any_server.client().hgetall(FLEET + "common")
    assert b"secret" not in repr(told).encode()
    assert known_seed(board, "secret words") == ("fold64", "secret words")
    for call in (lambda: known_seed(board, None), lambda: agreed_seed(board, "fold64", None)):
        with pytest.raises(ConfigError, match="hash_seed: expected the seed that"):
            call()
    with pytest.raises(ConfigError, match="hash_seed: expected that of"):
        known_seed(board, "other words")


def test_another_algorithm_is_refused(board: Board) -> None:
    agreed_seed(board, "fold64", "s")
    with pytest.raises(ConfigError, match="algorithm: expected 'fold64'"):
        agreed_seed(board, "fnv64a_cbor", "s")


def test_a_flushed_server_is_told_the_seed_again(any_server: RedisServer, board: Board) -> None:
    seed = agreed_seed(board, "fold64", None)
    any_server.flush()
    confirm_seed(board, "fold64", seed, is_kept=True)
    assert known_seed(board, None) == ("fold64", seed)
    any_server.flush()
    agreed_seed(board, "fold64", None)
    with pytest.raises(ConfigError, match="hash_seed"):
        confirm_seed(board, "fold64", seed, is_kept=True)


def test_a_reader_says_that_nobody_has_written(board: Board) -> None:
    with pytest.raises(RemoteIndexError, match="no writer yet"):
        known_seed(board, None)
