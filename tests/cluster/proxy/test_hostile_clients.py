"""Clients that send too much, too slowly, or what is no request: each is told, none is waited for."""

from __future__ import annotations

import asyncio
import json

import pytest

from kvatlas.cluster.config.proxy_config import ProxyConfig, ProxyLimits
from tests.cluster.proxy.proxy_rig import MODEL, Rig, play, prompt, rig

LIMITS = ProxyLimits(
    head_s_max=0.3,
    body_s_max=0.3,
    idle_s_max=0.3,
    head_bytes_max=4096,
    body_bytes_max=64 << 10,
    json_parts_max=1000,
)
CONFIG = ProxyConfig(host="127.0.0.1", limits=LIMITS)
BODY = json.dumps({"model": MODEL, "prompt": prompt(1), "max_tokens": 1}).encode()
WHOLE = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)


async def said(one: Rig, *parts: bytes) -> bytes:
    """All that comes back for some bytes, until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(one.url.rpartition(":")[2]))
    for part in parts:
        writer.write(part)
        await asyncio.sleep(0)
    answer = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    return answer


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET /" + 5000 * b"a", 431),
        (b"GET / HTTP/1.1\r\n" + 200 * b"a: b\r\n" + b"\r\n", 431),
        (b"POST /v1/completions HTTP/1.1\r\ncontent-length: 100000000\r\n\r\n", 413),
        (b"POST /v1/completions HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n10001\r\n" + 65537 * b"x" + b"\r\n", 413),
        (b"GET / HT", 408),
        (b"POST /v1/completions HTTP/1.1\r\ncontent-length: 9\r\n\r\n{", 408),
    ],
)
def test_what_is_no_request_within_bounds_is_told_so_and_closed(sent: bytes, expected: int) -> None:
    async def scenario() -> None:
        async with rig(pods=1, config=CONFIG) as one:
            answer = await said(one, sent)
            assert status(answer) == expected
            assert b"connection: close" in answer
            error = json.loads(answer.rpartition(b"\r\n\r\n")[2])["error"]
            assert error["code"] == expected
            assert one.server.statistics().body_bytes == 0
            assert (await one.complete(prompt(1))).status == 200

    play(scenario())


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "JSON"),
        (b"[1, 2]", "JSON object"),
        (b'{"model": 5}', "model"),
        (b'{"prompt": "x", "model": ' + 500 * b"[" + 500 * b"]" + b"}", "model"),
        (b"[" * 900, "JSON"),
        (b'{"a": [' + b"[]," * 2000 + b"[]]}", "at most 1000"),
        (b'{"model": "simulated/model"}', "prompt"),
        (b'{"model": "simulated/model", "prompt": []}', "prompt"),
        (b'{"model": "simulated/model", "prompt": [-1, 2]}', "token"),
        (b'{"model": "simulated/model", "prompt": [99999999999999, 2]}', "token"),
        (b'{"model": "simulated/model", "prompt": ["a", {}, 3.5]}', "$.prompt[1]"),
        (b'{"model": "simulated/model", "prompt": [1, "x"]}', "token"),
        (b'{"model": "\xff"}', "UTF-8"),
    ],
)
def test_a_body_that_asks_nothing_sensible_is_refused_with_the_place(body: bytes, says: str) -> None:
    async def scenario() -> None:
        async with rig(pods=1, config=CONFIG) as one:
            answer = await one.post("/v1/completions", body)
            assert answer.status == 400, answer.body
            told = answer.json["error"]
            assert says.lower() in f"{told['message']} {told['param']}".lower()
            assert one.reserved() == 0

    play(scenario())


@pytest.mark.parametrize("messages", ["text", 5, {"a": 1}])
def test_messages_that_are_no_chat_are_refused(messages: object) -> None:
    async def scenario() -> None:
        async with rig(pods=1) as one:
            answer = await one.post("/v1/chat/completions", {"model": MODEL, "messages": messages})
            assert answer.status == 400
            assert answer.json["error"]["param"] == "$.messages"

    play(scenario())


def test_brackets_in_texts_are_no_bomb() -> None:
    async def scenario() -> None:
        async with rig(pods=1, config=CONFIG) as one:
            assert (await one.complete("[" * 5000)).status == 200

    play(scenario())


def test_requests_that_are_sent_ahead_are_answered_in_order() -> None:
    async def scenario() -> None:
        async with rig(pods=1, config=CONFIG) as one:
            answer = await said(one, WHOLE + WHOLE, WHOLE)
            assert answer.count(b"HTTP/1.1 200 OK") == 3
            assert one.server.statistics().body_bytes == 0

    play(scenario())


def test_a_client_that_sends_ahead_without_end_is_closed_after_some() -> None:
    async def scenario() -> None:
        async with rig(pods=1, config=CONFIG, tokens_per_s=100.0) as one:
            answer = await said(one, 40 * WHOLE)
            assert 1 <= answer.count(b"HTTP/1.1 200 OK") < 40

    play(scenario())


def test_a_connection_is_kept_for_the_next_request_and_closed_when_none_comes() -> None:
    async def scenario() -> None:
        async with rig(pods=1, config=CONFIG) as one:
            answer = await said(one, WHOLE)  # returns when the proxy has closed it
            assert status(answer) == 200
            assert b"connection: close" not in answer

    play(scenario())


def test_a_client_of_http_1_0_is_answered_without_chunks() -> None:
    async def scenario() -> None:
        async with rig(pods=1) as one:
            body = BODY[:-1] + b', "stream": true}'
            head = b"POST /v1/completions HTTP/1.0\r\ncontent-length: %d\r\n\r\n" % len(body)
            answer = await said(one, head + body)
            assert b"chunked" not in answer
            assert answer.endswith(b"data: [DONE]\n\n")

    play(scenario())


def test_who_waits_for_a_hundred_is_told_to_go_on() -> None:
    async def scenario() -> None:
        async with rig(pods=1, config=CONFIG) as one:
            head, _, body = WHOLE.partition(b"\r\n\r\n")
            answer = await said(one, head + b"\r\nexpect: 100-continue\r\n\r\n", body)
            assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")

    play(scenario())


def test_bodies_of_all_clients_have_one_bound() -> None:
    async def scenario() -> None:
        limits = ProxyLimits(bodies_bytes_max=1 << 20, body_bytes_max=1 << 20)
        async with rig(pods=1, config=ProxyConfig(host="127.0.0.1", limits=limits)) as one:
            head = b"POST /v1/completions HTTP/1.1\r\ncontent-length: 1000000\r\n\r\n"
            _, first = await asyncio.open_connection("127.0.0.1", int(one.url.rpartition(":")[2]))
            first.write(head + 900_000 * b" ")
            await one.until(lambda: one.server.statistics().body_bytes == 900_000)
            assert status(await said(one, head + 900_000 * b" ")) == 503
            assert one.counts["refused_bodies"] == 1
            first.close()
            await one.until(lambda: one.server.statistics().body_bytes == 0)

    play(scenario())


def test_connections_beyond_the_bound_are_refused() -> None:
    async def scenario() -> None:
        limits = ProxyLimits(connections_max=2)
        async with rig(pods=1, config=ProxyConfig(host="127.0.0.1", limits=limits)) as one:
            port = int(one.url.rpartition(":")[2])
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            await one.until(lambda: one.server.statistics().clients == 2)
            assert status(await said(one, b"")) == 503
            for _, writer in held:
                writer.close()
            await one.until(lambda: one.server.statistics().clients == 0)
            assert (await one.complete(prompt(1))).status == 200

    play(scenario())
