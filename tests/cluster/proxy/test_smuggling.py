"""Requests that two parsers could read in two ways, and what clients say that must not reach pods."""

from __future__ import annotations

import asyncio
import time
import tracemalloc

import pytest

from kvatlas.cluster.config.proxy_config import ProxyConfig, ProxyLimits
from kvatlas.cluster.proxy.asking import read
from kvatlas.index.errors import InputError
from tests.cluster.proxy.lying_pod import answer, lying
from tests.cluster.proxy.proxy_rig import MODEL, Rig, play, prompt, rig
from tests.cluster.proxy.test_hostile_clients import BODY, CONFIG, LIMITS, WHOLE, said, status

LENGTH = b"content-length: %d" % len(BODY)
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)


CLOSE = b"connection: close"


def post(*headers: bytes, body: bytes = BODY, target: bytes = b"/v1/completions") -> bytes:
    lines = [b"POST " + target + b" HTTP/1.1", b"host: x", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    "sent",
    [
        post(LENGTH, b"content-length: 3"),
        post(LENGTH, LENGTH),
        post(LENGTH + b", %d" % len(BODY)),
        post(b"content-length: +%d" % len(BODY)),
        post(b"content-length: 0x%x" % len(BODY)),
        post(LENGTH, b"transfer-encoding: chunked", body=CHUNKED),
        post(b"transfer-encoding: chunked", LENGTH, body=CHUNKED),
        post(b"transfer-encoding : chunked", body=CHUNKED),
        post(b"transfer-encoding: xchunked", body=CHUNKED),
        post(b"transfer-encoding: chunked, identity", body=CHUNKED),
        post(b"transfer-encoding: chunked", body=b"-1\r\n"),
        post(b"transfer-encoding: chunked", body=b"ffffffffffffffffff\r\n"),
        post(b"transfer-encoding: chunked", body=CHUNKED.replace(b"\r\n", b"\n")),
        post(LENGTH).replace(b"\r\n", b"\n"),
        post(b"x-a: b\nx-evil: 1", LENGTH),
        post(b"x-a: b\rx-evil: 1", LENGTH),
        post(b"x-a: b\x00", LENGTH),
        post(b"x-a: b\r\n folded: c", LENGTH),
        post(b" x-a: b", LENGTH),
        post(b"x a: b", LENGTH),
        post(b": b", LENGTH),
        post(LENGTH, target=b"/v1/completions x"),
        post(LENGTH, target=b"/v1/completions\x00"),
        post(LENGTH, b"connection: upgrade", b"upgrade: h2c"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_what_can_be_read_in_two_ways_is_refused_and_reaches_no_pod(sent: bytes) -> None:
    async def scenario() -> None:
        async with rig(pods=1, config=CONFIG) as one:
            got = await said(one, sent + WHOLE)
            assert status(got) == 400 and got.count(b"\nconnection: ") == 1
            assert not one.pods["pod0"].requests
            assert one.server.statistics().body_bytes == one.reserved() == 0

    play(scenario())


@pytest.mark.parametrize(
    "target",
    [
        b"http://evil.example/v1/completions",
        b"//v1/completions",
        b"/v1/completions/",
        b"/v1/../v1/completions",
        b"/v1/%63ompletions",
        b"/v1/completions;x",
        b"/V1/completions",
        b"/metrics",
        b"*",
        b"/v1/load_lora_adapter",
    ],
)
def test_a_path_that_is_not_the_very_one_is_not_found(target: bytes) -> None:
    async def scenario() -> None:
        async with rig(pods=1, config=CONFIG) as one:
            assert status(await said(one, post(LENGTH, CLOSE, target=target))) == 404
            assert not one.pods["pod0"].requests

    play(scenario())


@pytest.mark.parametrize(
    "method", [b"PUT", b"DELETE", b"TRACE", b"OPTIONS", b"CONNECT", b"PATCH", b"PROPFIND"]
)
def test_a_method_that_is_none_of_ours_is_not_found(method: bytes) -> None:
    async def scenario() -> None:
        async with rig(pods=1, config=CONFIG) as one:
            target = b"x:80" if method == b"CONNECT" else b"/v1/completions"
            sent = (
                method
                + b" "
                + target
                + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            )
            assert status(await said(one, sent)) == 404
            assert not one.pods["pod0"].requests

    play(scenario())


async def reached(one: Rig, sent: bytes) -> tuple[bytes, bytes]:
    """What the client and the pod were sent."""
    async with lying(one, answer(b"{}")) as pod:
        got = await said(one, sent)
        assert status(got) == 200, got
        (request,) = pod.requests
        return got.lower(), request.lower()


def test_what_a_client_says_of_the_way_stays_on_the_way() -> None:
    async def scenario() -> None:
        async with rig(pods=0, config=CONFIG) as one:
            ours = (
                b"x-data-parallel-rank: 7",
                b"te: trailers",
                b"keep-alive: 9",
                b"proxy-authorization: secret",
            )
            named = b"connection: close, x-mine, host, content-length, x-request-id"
            got, request = await reached(one, post(LENGTH, *ours, named, b"x-mine: 1", b"x-request-id: abc"))
            for left_out in (
                b"x-data-parallel-rank",
                b"te:",
                b"keep-alive",
                b"secret",
                b"x-mine",
                b"host: x\r\n",
            ):
                assert left_out not in request
            assert request.count(b"content-length:") == request.count(b"host:") == 1
            assert b"x-request-id: abc\r\n" in request and b"x-request-id: abc\r\n" in got

    play(scenario())


def test_trailers_are_not_headers() -> None:
    """Or whoever has been let in could say afterwards whose the request is."""

    async def scenario() -> None:
        trailers = b"x-trailer: evil\r\nauthorization: bearer evil\r\nhost: evil\r\n\r\n"
        sent = post(b"transfer-encoding: chunked", CLOSE, body=CHUNKED[:-2] + trailers)
        async with rig(pods=0, config=CONFIG) as one:
            _, request = await reached(one, sent)
            assert b"evil" not in request

    play(scenario())


@pytest.mark.parametrize("name", [b"\xff\xfe", b"\xe2\x80\xae", b"a" * 3000, b"a: b", b'"}]', b"../../x"])
def test_a_request_id_is_echoed_as_it_came_and_names_nothing_here(name: bytes) -> None:
    async def scenario() -> None:
        async with rig(pods=0, config=CONFIG) as one:
            got, request = await reached(one, post(LENGTH, CLOSE, b"x-request-id: " + name))
            line = b"x-request-id: " + name + b"\r\n"
            assert line in request and line in got
            assert b"x-kvatlas-request-id: " in got and b"x-kvatlas-request-id: " + name not in got
            assert one.reserved() == 0

    play(scenario())


@pytest.mark.parametrize(
    "rest",
    [
        b"GET /" + 200_000 * b"a",
        b"GET / HTTP/1.1\r\nx: " + 200_000 * b"a",
        post(b"transfer-encoding: chunked", body=CHUNKED[:-2] + b"x: " + 200_000 * b"a"),
    ],
)
def test_what_is_sent_ahead_without_end_waits_in_the_socket(rest: bytes) -> None:
    """While an answer runs, too: else a slow stream would be room for any amount."""

    async def scenario() -> None:
        async with rig(pods=1, tokens_per_s=50.0, config=CONFIG) as one:
            stream = BODY.replace(b'"max_tokens": 1', b'"max_tokens": 100000, "stream": true')
            reader, writer = await asyncio.open_connection("127.0.0.1", int(one.url.rpartition(":")[2]))
            writer.write(post(b"content-length: %d" % len(stream), body=stream))
            await reader.readuntil(b"data: ")
            (client,) = one.server._clients
            assert client._transport.is_reading()
            writer.write(rest)
            await one.until(lambda: not client._transport.is_reading())
            assert len(client._arriving.target) + len(client._arriving.body) < 1 << 20
            writer.close()
            await one.until(lambda: one.reserved() == 0)

    play(scenario())


def test_a_trailer_or_a_chunks_extension_without_end_is_refused() -> None:
    async def scenario() -> None:
        for rest in (CHUNKED[:-2] + b"x: " + 70_000 * b"a", b"5;" + 400_000 * b"a"):
            async with rig(pods=1, config=CONFIG) as one:
                reader, writer = await asyncio.open_connection("127.0.0.1", int(one.url.rpartition(":")[2]))
                sent = post(b"transfer-encoding: chunked", body=rest)
                for at in range(0, len(sent), 1000):
                    writer.write(sent[at : at + 1000])
                    await asyncio.sleep(0)
                assert b" 431 " in (await reader.readuntil(b"\r\n"))
                writer.close()

    play(scenario())


def test_a_large_body_behind_a_running_answer_is_read_when_its_turn_comes() -> None:
    async def scenario() -> None:
        limits = ProxyLimits(head_bytes_max=4096, body_bytes_max=1 << 20)
        async with rig(pods=1, tokens_per_s=20.0, config=ProxyConfig(host="127.0.0.1", limits=limits)) as one:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(one.url.rpartition(":")[2]))
            padded = BODY + 500_000 * b" "
            writer.write(WHOLE + post(b"content-length: %d" % len(padded), body=b""))
            await reader.readuntil(b"\r\n\r\n")
            for at in range(0, len(padded), 50_000):
                writer.write(padded[at : at + 50_000])
                await writer.drain()
            assert b"200 OK" in await reader.readuntil(b"HTTP/1.1 200 OK")
            writer.close()

    play(scenario())


def test_who_waits_for_a_hundred_behind_a_running_answer_does_not_get_it_amid_that() -> None:
    async def scenario() -> None:
        async with rig(pods=1, tokens_per_s=100.0, config=CONFIG) as one:
            stream = BODY.replace(b'"max_tokens": 1', b'"max_tokens": 20, "stream": true')
            ahead = post(b"expect: 100-continue", LENGTH, b"connection: close", body=b"")
            reader, writer = await asyncio.open_connection("127.0.0.1", int(one.url.rpartition(":")[2]))
            writer.write(post(b"content-length: %d" % len(stream), body=stream) + ahead)
            first = await reader.readuntil(b"data: [DONE]")
            assert b"100 Continue" not in first
            writer.write(BODY)
            assert b"200 OK" in await reader.read()
            writer.close()

    play(scenario())


@pytest.mark.slow
def test_a_body_of_two_byte_chunks_takes_no_more_room_than_any_other() -> None:
    async def scenario() -> None:
        limits = ProxyLimits(body_bytes_max=1 << 20)
        async with rig(pods=1, config=ProxyConfig(host="127.0.0.1", limits=limits)) as one:
            _, writer = await asyncio.open_connection("127.0.0.1", int(one.url.rpartition(":")[2]))
            tracemalloc.start()
            try:
                writer.write(post(b"transfer-encoding: chunked", body=b"2\r\n  \r\n" * 60_000))
                await one.until(lambda: one.server.statistics().body_bytes == 120_000)
                assert tracemalloc.get_traced_memory()[0] < 2_000_000
            finally:
                tracemalloc.stop()
            writer.close()
            await one.until(lambda: one.server.statistics().body_bytes == 0)

    play(scenario())


def test_quotes_that_nobody_closes_are_looked_at_once() -> None:
    """Each alone would be searched to the end: a minute for this body, a day for the largest."""
    body = b"[" * (LIMITS.json_parts_max + 1) + b'"' + b'\\"' * 500_000
    before_s = time.process_time()
    with pytest.raises(InputError, match="at most 1000"):
        read("completion", body, LIMITS.json_parts_max)
    assert time.process_time() - before_s < 20


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (b'"stream": true, "stream_options": [1]', 200),
        (b'"stream": true, "stream_options": "x"', 200),
        (b'"stream": true, "stream_options": 0', 200),
        (b'"stream": true, "\\u0073tream_options": {"include_usage": false}', 200),
        (b'"max_tokens": -1', 200),
        (b'"max_tokens": 1e999', 400),
        (b'"x": NaN', 400),
        (b'"x": -Infinity', 400),
        (b'"x": 01', 400),
        (b'"cache_salt": "' + 2000 * b"s" + b'"', 400),
        (b'"cache_salt": 5', 400),
        (b'"prompt_cache_key": "\\u0000\\ud83d\\ude00"', 200),
        (b'"prompt_cache_key": "\\ud800"', 400),
        (b'"model": "nobody"', 404),
    ],
)
def test_fields_of_a_body_are_refused_here_or_left_to_the_pod(fields: bytes, expected: int) -> None:
    async def scenario() -> None:
        body = b'{"model": "%b", "prompt": [1, 2, 3], %b}' % (MODEL.encode(), fields)
        async with rig(pods=0, config=CONFIG) as one, lying(one, answer(b"{}")) as pod:
            got = await one.post("/v1/completions", body)
            assert got.status == expected, got.body
            assert len(pod.requests) == (expected == 200)
            assert one.reserved() == 0 and one.counts["failed_answers"] == 0

    play(scenario())


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize"])
@pytest.mark.parametrize("body", [b"[]", b"5", b"null", b'"x"', b"{", b"", b"\xff\xfe{\x00}\x00", b"{}{}"])
def test_what_is_no_object_is_refused_at_every_path(path: str, body: bytes) -> None:
    async def scenario() -> None:
        async with rig(pods=1) as one:
            assert (await one.post(path, body)).status == 400
            assert not one.pods["pod0"].requests and one.counts["failed_answers"] == 0

    play(scenario())


def test_a_session_may_have_any_characters_but_not_any_number() -> None:
    async def scenario() -> None:
        async with rig(pods=0, config=ProxyConfig(host="127.0.0.1")) as one:
            await reached(one, post(LENGTH, b"x-kvatlas-session: \xff\xfe", CLOSE))
            async with lying(one, answer(b"{}")):
                too_long = b"x-kvatlas-session: " + 5000 * b"s"
                got = await said(one, post(LENGTH, too_long, CLOSE))
            assert status(got) == 400 and b"session: expected" in got

    play(scenario())


def test_clients_that_all_go_away_at_once_leave_nothing() -> None:
    async def scenario() -> None:
        async with rig(pods=2, tokens_per_s=50.0) as one:
            stream = BODY.replace(b'"max_tokens": 1', b'"max_tokens": 100000, "stream": true')
            sent = post(b"content-length: %d" % len(stream), body=stream)
            port = int(one.url.rpartition(":")[2])
            clients = [await asyncio.open_connection("127.0.0.1", port) for _ in range(200)]
            for n, (_, writer) in enumerate(clients):
                writer.write(sent[: len(sent) - 1 if n % 4 == 3 else None])
            await one.until(lambda: one.reserved() == 150)
            for n, (_, writer) in enumerate(clients):
                writer.transport.abort() if n % 2 else writer.close()
            await one.until(lambda: one.reserved() == 0 and one.server.statistics().clients == 0)
            await one.until(lambda: one.server.statistics().pod_connections == 0)
            assert one.server.statistics().body_bytes == 0
            assert len(one.chooser.loads.own()[0]) == 0
            assert (await one.complete(prompt(1))).status == 200

    play(scenario())
