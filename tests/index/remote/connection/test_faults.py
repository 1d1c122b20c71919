"""What lies between client and server fails: nothing waits too long, no answer is taken for another's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from kvatlas.index.remote.connection.connection import RemoteConnection
from kvatlas.index.remote.connection.failures import ServerError
from tests.index.remote.connection.asking import command, connect
from tests.servers.faults import FaultyProxy, faulty
from tests.servers.redis_server import RedisServer, wait_until


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[FaultyProxy]:
    with faulty(redis_server.port) as one:
        yield one


def failure(ask: Callable[[], object]) -> ServerError:
    with pytest.raises(ServerError) as caught:
        ask()
    return caught.value


def answer_now(connection: RemoteConnection, *words: bytes | str | int) -> object:
    """None while the server is not asked."""
    try:
        return connection.run([command(*words)])[0]
    except ServerError:
        return None


def test_slow_answer_is_given_up_and_never_taken_for_the_next_ones(
    proxy: FaultyProxy, redis_server: RedisServer
) -> None:
    redis_server.command("SET", "a", "of a")
    redis_server.command("SET", "b", "of b")
    with connect(proxy, backoff_ms_max=1) as connection:
        assert connection.run([command("PING")]) == [b"PONG"]
        proxy.delay_s = 0.5
        error = failure(lambda: connection.run([command("GET", b"a")], timeout_s=0.1))
        assert error.reason == "timeout" and error.is_sent
        proxy.heal()
        wait_until(lambda: answer_now(connection, "GET", b"b") == b"of b")
        counts = connection.status().counts
        assert counts.timeouts == 1 and counts.connects == 2 and counts.reconnects == 1


def test_answer_that_drips_ends_with_the_whole_request(proxy: FaultyProxy, redis_server: RedisServer) -> None:
    redis_server.command("SET", "a", b"x" * 1_000_000)
    with connect(proxy) as connection:
        connection.run([command("PING")])
        proxy.drip_bytes, proxy.delay_s = 1, 0.01  # the whole would take hours, each byte is soon there
        error = failure(lambda: connection.run([command("GET", b"a")], timeout_s=0.2))
        assert error.reason == "timeout"
        assert "expected an answer within 2" in str(error)


@pytest.mark.parametrize("cut", [0, 1, 3, 500])
def test_answer_that_breaks_off_is_an_error_and_no_answer(
    proxy: FaultyProxy, redis_server: RedisServer, cut: int
) -> None:
    redis_server.command("SET", "a", b"x" * 1000)
    with connect(proxy) as connection:
        proxy.cut_after_bytes = cut
        error = failure(lambda: connection.run([command("GET", b"a")]))
        assert error.reason == "down" and error.is_sent


def test_what_may_not_be_repeated_is_executed_at_most_once(
    proxy: FaultyProxy, redis_server: RedisServer
) -> None:
    with connect(proxy) as connection:
        connection.run([command("PING")])
        proxy.cut_after_bytes = 0
        error = failure(lambda: connection.run([command("INCR", b"n")]))
        assert error.is_sent and connection.status().counts.repeats == 0
    wait_until(lambda: proxy.n_open == 0)
    assert redis_server.command("GET", "n") == b"1"


def test_what_may_be_repeated_is_asked_once_more_by_another_connection(proxy: FaultyProxy) -> None:
    with connect(proxy) as connection:
        connection.run([command("SET", b"a", 1)])

        def cut_once(answer: bytes) -> bytes:
            proxy.garble = None
            proxy.cut_all()
            return answer

        proxy.garble = cut_once
        assert connection.run([command("GET", b"a")], is_repeatable=True) == [b"1"]
        status = connection.status()
        assert status.is_up and status.counts.repeats == 1 and status.counts.failures == 0


def test_repetition_that_fails_too_is_an_error(proxy: FaultyProxy) -> None:
    with connect(proxy) as connection:
        connection.run([command("PING")])
        proxy.cut_after_bytes = 0
        assert failure(lambda: connection.run([command("PING")], is_repeatable=True)).reason == "down"
        assert connection.status().counts.repeats == 1 and connection.status().links == 0


def test_connection_that_was_closed_while_idle_is_noticed_before_it_is_used(proxy: FaultyProxy) -> None:
    with connect(proxy) as connection:
        connection.run([command("PING")])
        proxy.cut_all()
        wait_until(lambda: proxy.n_open == 0)
        assert connection.run([command("INCR", b"n")]) == [1]
        assert connection.status().counts.stale == 1 and connection.status().counts.failures == 0


def test_server_that_says_no_more_is_noticed(proxy: FaultyProxy) -> None:
    with connect(proxy) as connection:
        connection.run([command("PING")])
        proxy.half_close_all()
        wait_until(lambda: connection.run([command("PING")]) == [b"PONG"])
        assert connection.status().counts.stale == 1


def test_questions_that_never_arrive_are_given_up(proxy: FaultyProxy) -> None:
    with connect(proxy) as connection:
        connection.run([command("PING")])
        proxy.swallows_questions = True
        assert failure(lambda: connection.run([command("PING")], timeout_s=0.05)).reason == "timeout"


def test_port_that_accepts_and_closes_is_down(proxy: FaultyProxy) -> None:
    proxy.refuses = True
    with connect(proxy) as connection:
        assert failure(lambda: connection.run([command("PING")])).reason == "down"


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"!!!\r\n", b"$x\r\n", b":\r\n", b"\x00" * 100],
)
def test_server_of_another_protocol_is_an_error(proxy: FaultyProxy, answer: bytes) -> None:
    proxy.garble = lambda _: answer
    with connect(proxy) as connection:
        error = failure(lambda: connection.run([command("PING")], timeout_s=0.2))
        assert error.reason in ("garbled", "timeout", "down")
        assert str(error).startswith("127.0.0.1:")


def test_answers_of_too_many_bytes_are_given_up(redis_server: RedisServer) -> None:
    redis_server.command("SET", "a", b"x" * (3 << 20))
    with connect(redis_server, reply_bytes_max=2 << 20) as connection:
        error = failure(lambda: connection.run([command("GET", b"a")]))
        assert error.reason == "garbled" and str(2 << 20) in str(error)
        wait_until(lambda: answer_now(connection, "STRLEN", b"a") == 3 << 20)


def test_random_bytes_in_answers_never_do_worse_than_an_error(
    proxy: FaultyProxy, redis_server: RedisServer
) -> None:
    redis_server.command("RPUSH", "a", *range(50))

    def spoilt(answer: bytes) -> bytes:
        at = int.from_bytes(os.urandom(2), "little") % len(answer)
        return answer[:at] + os.urandom(1) + answer[at + 1 :]

    proxy.garble = spoilt
    for _ in range(100):
        with connect(proxy) as connection:
            try:
                (answer,) = connection.run([command("LRANGE", b"a", 0, -1)], timeout_s=0.05)
            except ServerError:
                continue
            assert answer is not None


def test_big_question_to_a_server_that_does_not_read_is_given_up(redis_server: RedisServer) -> None:
    with connect(redis_server) as connection:
        connection.run([command("PING")])
        redis_server.pause()
        big = [command("SET", b"a", b"x" * (32 << 20))]
        error = failure(lambda: connection.run(big, timeout_s=1.0))
        assert error.reason == "timeout" and error.is_sent
        redis_server.resume()


def test_server_that_is_stopped_holds_one_request_for_its_time_and_the_others_not_at_all(
    any_server: RedisServer,
) -> None:
    now_s = [100.0]
    with connect(any_server) as connection:
        connection = type(connection)(connection.settings, clock_s=lambda: now_s[0])
        connection.run([command("PING")])
        any_server.pause()
        assert failure(lambda: connection.run([command("PING")], timeout_s=0.05)).reason == "timeout"
        for _ in range(100):  # the clock stands still: each that waited would wait for a minute
            error = failure(lambda: connection.run([command("PING")], timeout_s=60))
            assert error.reason == "backoff" and "not asked again for" in str(error) and not error.is_sent
        assert connection.status().counts.held_back == 100
        any_server.resume()
        now_s[0] += 1
        assert connection.run([command("PING")]) == [b"PONG"]
        assert connection.status().is_up
        connection.close()
