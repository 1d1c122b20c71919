"""Servers that answer, and cannot be used: full, loading, replicas, busy, of too many clients."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from kvatlas.index.remote.connection.connection import RemoteConnection
from kvatlas.index.remote.connection.failures import ErrorReply, ServerError
from tests.index.remote.connection.asking import command, connect
from tests.ports import deaf_port
from tests.servers.fixtures import ServerFactory
from tests.servers.redis_server import RedisServer, wait_until

# It looks after its clients each time that it has read so many bytes; by default each 2 MiB.
_LOADING = {"enable-debug-command": "yes", "loading-process-events-interval-bytes": 1024}


def reason_now(connection: RemoteConnection, *words: bytes | str | int) -> str:
    """Of the error that a command ends with; empty: it was answered."""
    try:
        connection.run([command(*words)], timeout_s=5)
    except ServerError as error:
        return error.reason
    return ""


def test_full_server_refuses_what_needs_memory_and_answers_the_rest(any_server: RedisServer) -> None:
    with connect(any_server) as connection:
        connection.run([command("SET", b"a", 1)])
        any_server.command("CONFIG", "SET", "maxmemory", 1)
        refused, answer = connection.run([command("SET", b"b", 1), command("GET", b"a")])
        assert isinstance(refused, ErrorReply) and refused.code == "OOM" and answer == b"1"
        with pytest.raises(ServerError) as caught:
            connection.run_or_raise([command("SET", b"b", 1)])
        assert caught.value.reason == "full"
        assert connection.status().counts.oom == 2 and connection.status().is_up
        any_server.command("CONFIG", "SET", "maxmemory", 0)
        assert connection.run([command("SET", b"b", 1)]) == [b"OK"]


@pytest.mark.parametrize("kind", ["redis", "valkey"])
def test_replica_is_no_place_to_write_until_it_is_none(start_server: ServerFactory, kind: str) -> None:
    server = start_server(kind=kind)
    with deaf_port() as port, connect(server, backoff_ms_max=1) as connection:
        connection.run([command("SET", b"a", 1)])
        server.command("REPLICAOF", "127.0.0.1", port)
        with pytest.raises(ServerError, match="READONLY") as caught:
            connection.run([command("SET", b"a", 2)])
        assert caught.value.reason == "readonly"
        server.command("REPLICAOF", "NO", "ONE")
        wait_until(lambda: reason_now(connection, "SET", b"a", 3) == "")


def test_replica_without_its_master_may_refuse_to_read(start_server: ServerFactory) -> None:
    server = start_server(options={"replica-serve-stale-data": "no"})
    with deaf_port() as port, connect(server) as connection:
        server.command("REPLICAOF", "127.0.0.1", port)
        assert reason_now(connection, "GET", b"a") == "loading"  # MASTERDOWN


@pytest.mark.parametrize("kind", ["redis", "valkey"])
def test_server_that_loads_its_data_is_waited_for_by_nobody(start_server: ServerFactory, kind: str) -> None:
    server = start_server(kind=kind, options=_LOADING)
    with connect(server, backoff_ms_max=1) as connection, ThreadPoolExecutor(1) as thread:
        connection.run([command("SET", b"key %d" % number, os.urandom(200)) for number in range(500)])
        server.command("CONFIG", "SET", "key-load-delay", 10_000)  # microseconds a key
        loading = thread.submit(server.command, "DEBUG", "RELOAD")
        wait_until(lambda: reason_now(connection, "GET", b"key 1") == "loading")
        assert not connection.status().is_up and "LOADING" in connection.status().says
        server.command("CONFIG", "SET", "key-load-delay", 0)
        assert loading.result(60)
        wait_until(lambda: reason_now(connection, "GET", b"key 1") == "")
        assert connection.status().is_up


def test_server_that_a_script_holds_is_busy(start_server: ServerFactory) -> None:
    server = start_server(options={"lua-time-limit": 20})
    with (
        connect(server, backoff_ms_max=1) as connection,
        connect(server) as other,
        ThreadPoolExecutor(1) as thread,
    ):
        endless = thread.submit(lambda: other.run([command("EVAL", "while true do end", 0)], timeout_s=60))
        wait_until(lambda: reason_now(connection, "PING") == "busy")
        server.command("SCRIPT", "KILL")
        (ended,) = endless.result(60)
        assert isinstance(ended, ErrorReply)
        wait_until(lambda: reason_now(connection, "PING") == "")


def test_server_of_too_many_clients_refuses(start_server: ServerFactory) -> None:
    server = start_server(options={"maxclients": 1})
    with connect(server) as first, connect(server) as second:
        wait_until(lambda: reason_now(first, "PING") == "")  # the fixture's own has gone
        with pytest.raises(ServerError, match="max number of clients") as caught:
            second.run([command("PING")])
        assert caught.value.reason == "refused"
        assert second.status().links == 0


def test_user_without_the_right_is_refused(start_server: ServerFactory) -> None:
    server = start_server(password="word")
    server.command("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+get", "+ping")
    url = f"redis://reader:secret@127.0.0.1:{server.port}"
    with connect(url) as connection:
        assert connection.run([command("GET", b"a")]) == [None]
        with pytest.raises(ServerError, match="NOPERM") as caught:
            connection.run([command("SET", b"a", 1)])
        assert caught.value.reason == "refused"


@pytest.mark.slow
def test_restarted_server_is_found_again_without_an_error(any_server: RedisServer) -> None:
    with connect(any_server) as connection:
        for _ in range(3):
            assert connection.run([command("INCR", b"n")]) == [1]  # it has forgotten all
            any_server.restart()
        assert connection.status().counts.failures == 0


def test_killed_server_is_down_until_it_is_back(any_server: RedisServer) -> None:
    with connect(any_server, backoff_ms_max=1) as connection:
        connection.run([command("PING")])
        any_server.kill()
        assert reason_now(connection, "PING") == "down"
        assert not connection.status().is_up
        any_server.start()
        wait_until(lambda: reason_now(connection, "PING") == "")
        status = connection.status()
        assert status.is_up and status.down_s == 0 and status.counts.reconnects == 1
