"""A connection to real servers, of every kind of URL."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest

from kvatlas.index.errors import ConfigError, RemoteIndexError
from kvatlas.index.remote.connection.failures import ErrorReply, ServerError
from tests.index.remote.connection.asking import command, connect
from tests.ports import deaf_port
from tests.servers.certificates import Certificates
from tests.servers.fixtures import ServerFactory
from tests.servers.redis_server import RedisServer

ECHO = "return {KEYS[1], ARGV[1]}"


def test_answers_come_in_order_and_errors_of_single_commands_are_values(any_server: RedisServer) -> None:
    with connect(any_server) as connection:
        answers = connection.run(
            [
                command("SET", b"a", 1),
                command("HGET", b"a", "field"),
                command("GET", b"a"),
                command("NONSENSE"),
                command("GET", b"none"),
                command("MGET", b"a", b"none"),
            ]
        )
        assert answers[0] == b"OK" and answers[2] == b"1" and answers[4:] == [None, [b"1", None]]
        wrong_type, unknown = answers[1], answers[3]
        assert isinstance(wrong_type, ErrorReply) and wrong_type.code == "WRONGTYPE"
        assert isinstance(unknown, ErrorReply) and unknown.code == "ERR"
        counts = connection.status().counts
        assert (counts.round_trips, counts.commands, counts.errors) == (1, 6, 2)


def test_an_error_is_raised_with_its_place_and_its_reason_where_that_is_asked(
    redis_server: RedisServer,
) -> None:
    with connect(redis_server) as connection:
        with pytest.raises(ServerError, match=r"command 2 of 2.*WRONGTYPE") as caught:
            connection.run_or_raise([command("SET", b"a", 1), command("HGET", b"a", "x")])
        assert caught.value.reason == "wrong type" and caught.value.is_sent
        assert isinstance(caught.value, RemoteIndexError)
        assert connection.run_or_raise([command("GET", b"a")]) == [b"1"]


def test_nothing_asked_is_nothing_answered(redis_server: RedisServer) -> None:
    with connect(redis_server) as connection:
        assert connection.run([]) == [] and len(connection.nodes()) == 1
        assert not connection.status().is_up  # nobody was asked


@pytest.mark.slow
def test_a_script_is_loaded_where_it_is_missing_and_again_after_a_restart(any_server: RedisServer) -> None:
    with connect(any_server) as connection:
        script = connection.script(ECHO)
        assert connection.script(ECHO) is script
        calls = [script.command([b"k"], [b"v%d" % number]) for number in range(3)]
        expected = [[b"k", b"v%d" % number] for number in range(3)]
        assert connection.run([*calls, command("PING")]) == [*expected, b"PONG"]
        assert connection.run(calls) == expected
        assert connection.status().counts.script_loads == 1
        any_server.restart()
        assert connection.run(calls) == expected
        assert connection.status().counts.script_loads == 2


def test_a_script_that_nobody_made_known_is_an_error_reply(redis_server: RedisServer) -> None:
    with connect(redis_server) as connection:
        (answer,) = connection.run([command("EVALSHA", b"0" * 40, 0)])
        assert isinstance(answer, ErrorReply) and answer.code == "NOSCRIPT"


def test_a_scripts_own_error_keeps_its_first_word(any_server: RedisServer) -> None:
    with connect(any_server) as connection:
        script = connection.script("return redis.error_reply('KVFENCED by session 7')")
        (answer,) = connection.run([script.command([b"k"])])
        assert isinstance(answer, ErrorReply) and answer.code == "KVFENCED"


def test_scan_goes_through_all_keys_that_match(any_server: RedisServer) -> None:
    with connect(any_server) as connection:
        connection.run(
            [command("SET", b"a:%d" % number, 1) for number in range(500)] + [command("SET", b"b", 1)]
        )
        pages = list(connection.scan("a:*", count=100))
        assert {key for page in pages for key in page} == {b"a:%d" % number for number in range(500)}
        assert len(pages) > 1
        (name,) = connection.nodes()
        assert connection.run_on(name, [command("PING")]) == [b"PONG"]
        with pytest.raises(ServerError, match="expected one of its nodes"):
            connection.run_on("another:1", [command("PING")])


@pytest.mark.parametrize("kind", ["redis", "valkey"])
def test_unix_socket_with_a_user_and_a_database(start_server: ServerFactory, kind: str) -> None:
    server = start_server(kind=kind, is_unix=True, user="us:er", password="p@ss/wo?rd")
    with connect(f"{server.url}?db=3") as connection:
        assert connection.run([command("SET", b"a", 1)]) == [b"OK"]
        assert "db3:keys=1" in server.log() or server.command("INFO", "keyspace")["db3"]["keys"] == 1


@pytest.mark.slow
def test_connections_are_used_again_and_threads_share_as_many_as_they_need(redis_server: RedisServer) -> None:
    with connect(redis_server, connections_max=4) as connection, ThreadPoolExecutor(16) as threads:

        def ask(number: int) -> bool:
            key = b"key %d" % number
            return bool(
                connection.run([command("SET", key, number), command("GET", key)])[1] == b"%d" % number
            )

        assert all(threads.map(ask, range(2000)))
        status = connection.status()
        assert 1 <= status.links <= 4 and status.counts.connects == status.links
        assert status.is_up and status.age_s is not None and status.says.endswith("answers")


def test_requests_without_a_free_connection_wait_within_their_time(redis_server: RedisServer) -> None:
    with connect(redis_server, connections_max=1) as connection:
        redis_server.pause()
        begun = threading.Event()

        def wait_long() -> str:
            begun.set()
            try:
                connection.run([command("PING")], timeout_s=60)
            except ServerError as error:
                return error.reason
            return "answered"

        with ThreadPoolExecutor(1) as thread:
            first = thread.submit(wait_long)
            assert begun.wait(10)
            # The first one's connection is being made or is waiting for its answer.
            while connection.status().links == 0:
                pass
            with pytest.raises(ServerError, match="expected a free connection") as caught:
                connection.run([command("PING")], timeout_s=0.05)
            assert caught.value.reason == "busy" and not caught.value.is_sent
            redis_server.resume()
            assert first.result(60) == "answered"
        assert connection.status().counts.crowded == 1


def test_closed_connection_says_so(redis_server: RedisServer) -> None:
    connection = connect(redis_server)
    connection.run([command("PING")])
    connection.close()
    connection.close()
    with pytest.raises(ServerError, match="closed") as caught:
        connection.run([command("PING")])
    assert caught.value.reason == "closed"
    assert connection.status().links == 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # other tests' threads may be there
def test_a_fork_shares_no_connection_with_its_parent(redis_server: RedisServer) -> None:
    with connect(redis_server) as connection:
        assert connection.run([command("SET", b"who", b"parent")]) == [b"OK"]
        child = os.fork()
        if child == 0:
            status = 1
            try:
                done = connection.run([command("GET", b"who"), command("SET", b"who", b"child")])
                status = 0 if done == [b"parent", b"OK"] else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert connection.run([command("GET", b"who")]) == [b"child"]
        assert connection.status().counts.connects == 1


def test_status_says_since_when_a_server_is_down_and_nobody_waits_twice() -> None:
    with deaf_port() as port, connect(f"redis://127.0.0.1:{port}", backoff_ms_max=600_000) as connection:
        assert not connection.status().is_up and "not asked yet" in connection.status().says
        for _ in range(40):  # the backoff grows until some requests find it open
            with pytest.raises(ServerError, match=f"127.0.0.1:{port}") as caught:
                connection.run([command("PING")])
            assert caught.value.reason in ("down", "backoff") and not caught.value.is_sent
        status = connection.status()
        assert not status.is_up and status.age_s is None and status.down_s > 0 and "refused" in status.says
        assert status.counts.held_back > 0 and status.counts.failures + status.counts.held_back == 40
        assert status.links == 0


def test_no_secret_is_shown_in_errors_logs_or_reprs(
    start_server: ServerFactory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = start_server(password="right")
    wrong = "tOp5ecret wr@ng"
    url = f"redis://:{quote(wrong, safe='')}@127.0.0.1:{server.port}"
    with connect(url) as connection:
        with pytest.raises(ServerError, match="WRONGPASS") as caught:
            connection.run([command("PING")])
        error = caught.value
        assert error.reason == "refused" and not error.is_sent
        shown = f"{error!r} {error} {error.__cause__!r} {error.__context__!r} {caplog.text}"
        shown += f"{connection!r} {connection.settings!r} {connection.status()!r}"
    assert "tOp5ecret" not in shown and "wr%40ng" not in shown


def test_without_the_password_the_server_refuses(start_server: ServerFactory) -> None:
    server = start_server(password="right")
    with connect(f"redis://127.0.0.1:{server.port}") as connection:
        with pytest.raises(ServerError, match="NOAUTH") as caught:
            connection.run([command("PING")])
        assert caught.value.reason == "refused"


def test_without_redis_py_one_error_names_the_extra() -> None:
    program = """
import sys
sys.modules["redis"] = None
import kvatlas
from kvatlas.index.remote.connection.connection import RemoteConnection
from kvatlas.index.remote.connection.settings import RemoteSettings
try:
    RemoteConnection(RemoteSettings())
except kvatlas.ConfigError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "kvatlas[redis]" in done.stdout and len(done.stdout.splitlines()) == 1


def test_files_of_tls_that_are_not_there_are_refused_at_once(certificates: Certificates) -> None:
    with pytest.raises(ConfigError, match="url: ca: expected a file"):
        connect("rediss://127.0.0.1:1?ca=/nowhere/ca.pem")
    with pytest.raises(ConfigError, match="url: key: expected a file"):
        connect(f"rediss://127.0.0.1:1?ca={certificates.authority}&key=/nowhere")
