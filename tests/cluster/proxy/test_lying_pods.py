"""Pods that lie, about lengths, usage and names: clients are told, loads end, and memory is bounded."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from kvatlas.cluster.config.proxy_config import ProxyConfig, ProxyLimits
from kvatlas.index.choosing.serving import Serving, ServingPod
from kvatlas.index.choosing.settings import ChoosingConfig
from tests.cluster.proxy.lying_pod import answer, lying
from tests.cluster.proxy.proxy_rig import MODEL, play, prompt, rig

QUICK = ProxyConfig(host="127.0.0.1", limits=ProxyLimits(answer_s_max=2.0, silence_s_max=2.0))


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense without end", 502),
        (b"\x00" * 100, 502),
        (b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n", 502),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello", 502),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\n", 502),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", 502),
        (b"HTTP/1.1 200 OK\r\nx: a\x00b\r\ncontent-length: 0\r\n\r\n", 502),
        (b"HTTP/1.1 200 OK\r\nx: a\r\n folded\r\ncontent-length: 0\r\n\r\n", 502),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 3, 504),
        (b"HTTP/1.1 200 OK\r\nx: ", 504),
    ],
)
def test_what_is_no_answer_is_told_and_counts_nowhere(sent: bytes, status: int) -> None:
    async def scenario() -> None:
        async with rig(pods=0, config=QUICK) as one, lying(one, sent):
            got = await one.complete(prompt(1))
            assert got.status == status
            assert got.json["error"]["code"] == status
            assert one.reserved() == one.server.statistics().pod_connections == 0

    play(scenario())


@pytest.mark.parametrize(
    "line", [b"x: " + 60_000 * b"a" + b"\r\n", 60_000 * b"a", b"HTTP/1.1 100 Continue\r\n\r\n"]
)
def test_a_head_without_end_is_not_waited_for_nor_kept(line: bytes) -> None:
    async def scenario() -> None:
        async def endless(writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" if b"100" in line else b"HTTP/1.1 200 OK\r\n")
            while True:
                writer.write(line)
                await writer.drain()

        async with rig(pods=0) as one, lying(one, endless):
            got = await one.complete(prompt(1))
            assert got.status == 502, got.body
            assert (
                "head of at most" in got.json["error"]["message"]
                or "HTTP/1.1" in got.json["error"]["message"]
            )
            assert one.reserved() == one.server.statistics().pod_connections == 0

    play(scenario())


def test_more_than_its_length_is_nobodys_answer() -> None:
    """The rest would be taken for what the next one had asked."""

    async def scenario() -> None:
        smuggled = answer(b'{"for": "the next"}')
        async with rig(pods=0) as one, lying(one, answer(b'{"a": 1}') + smuggled[:-3]) as pod:
            for _ in range(4):
                assert (await one.complete(prompt(1))).body == b'{"a": 1}'
            assert pod.connections == 4 and one.counts["reused_connections"] == 0
            assert one.reserved() == 0

    play(scenario())


def test_less_than_its_length_breaks_off() -> None:
    async def scenario() -> None:
        async def short(writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello")
            writer.close()

        async with rig(pods=0) as one, lying(one, short):
            with pytest.raises(aiohttp.ClientPayloadError):
                await one.complete(prompt(1))
            await one.until(lambda: one.reserved() == 0)

    play(scenario())


@pytest.mark.parametrize(
    "usage",
    [
        b'{"completion_tokens": 8589934592, "prompt_tokens_details": {"cached_tokens": 8589934592}}',
        b'{"completion_tokens": -5, "prompt_tokens_details": {"cached_tokens": -1}}',
        b'{"completion_tokens": 1e400, "prompt_tokens_details": {"cached_tokens": NaN}}',
        b'{"completion_tokens": "many", "prompt_tokens_details": []}',
        b'{"completion_tokens": ' + 5000 * b"9" + b"}",
        b"{" + 3000 * b'"a":{',
    ],
)
@pytest.mark.parametrize("streams", [False, True])
def test_usage_that_cannot_be_is_passed_on_and_ends_the_reservation(usage: bytes, streams: bool) -> None:
    async def scenario() -> None:
        body = b'{"choices": [{"text": "x"}], "usage": ' + usage + b"}"
        kind = b"content-type: application/json"
        if streams:
            body, kind = b"data: " + body + b"\n\ndata: [DONE]\n\n", b"content-type: text/event-stream"
        async with rig(pods=0) as one, lying(one, answer(body, kind)):
            got = await one.complete(prompt(1), stream=streams)
            assert (got.status, got.body) == (200, body)
            await one.until(lambda: one.reserved() == 0)
            assert one.chooser.statistics().completed == 1

    play(scenario())


def test_headers_of_a_pod_cannot_speak_for_the_proxy() -> None:
    async def scenario() -> None:
        forged = (
            b"x-kvatlas-pod: evil",
            b"x-request-id: evil",
            b"connection: x-kvatlas-request-id",
            b"keep-alive: 5",
        )
        async with rig(pods=0) as one, lying(one, answer(b"{}", *forged)):
            got = await one.complete(prompt(1))
            assert got.headers.getall("x-kvatlas-pod") == ["liar"]  # type: ignore[attr-defined]
            assert "evil" not in str(got.headers) and "keep-alive" not in got.headers
            assert got.headers["x-kvatlas-request-id"]

    play(scenario())


def test_trailers_of_a_pod_are_no_headers_and_one_without_end_is_broken_off() -> None:
    async def scenario() -> None:
        async def endless(writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx: ")
            while True:
                writer.write(60_000 * b"a")
                await writer.drain()

        async with rig(pods=0) as one, lying(one, endless):
            with pytest.raises(aiohttp.ClientPayloadError):
                await one.complete(prompt(1))
            assert one.reserved() == one.server.statistics().pod_connections == 0

    play(scenario())


def test_a_redirect_is_the_clients_to_follow() -> None:
    async def scenario() -> None:
        moved = answer(b"", b"location: http://169.254.169.254/latest", status=b"307 Temporary Redirect")
        async with rig(pods=0) as one, lying(one, moved) as pod:
            body = {"model": MODEL, "prompt": prompt(1)}
            async with one.session.post(one.url + "/v1/completions", json=body, allow_redirects=False) as got:
                assert (got.status, got.headers["location"]) == (307, "http://169.254.169.254/latest")
            assert len(pod.requests) == 1 and one.reserved() == 0

    play(scenario())


@pytest.mark.slow
def test_a_hundred_megabytes_pass_through_and_do_not_stay() -> None:
    async def scenario() -> None:
        part = b"x" * (1 << 20)

        async def large(writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
            for _ in range(100):
                writer.write(part)
                await writer.drain()
            writer.close()

        async with rig(pods=0) as one, lying(one, large):
            body = {"model": MODEL, "prompt": prompt(1), "stream": True}
            seen = most = 0
            async with one.session.post(one.url + "/v1/completions", json=body) as got:
                (client,) = one.server._clients
                async for data in got.content.iter_any():
                    seen += len(data)
                    most = max(most, client._transport.get_write_buffer_size())
            assert seen == 100 << 20 and most < 4 << 20
            await one.until(lambda: one.reserved() == 0)

    play(scenario())


@pytest.mark.parametrize("told", [b"nonsense", b"[1]", b'{"kv_transfer_params": ', b"x" * 1000, b"[" * 5000])
def test_a_prefill_that_tells_nothing_sensible_is_the_pods_fault(told: bytes) -> None:
    async def scenario() -> None:
        async with rig(pods=1, choosing=ChoosingConfig(bypass_tokens=0)) as one:
            one.serve("pod0", role="decode")
            async with lying(one, answer(told)):
                serving = Serving(url=one.urls["liar"], role="prefill")
                one.atlas.set_serving("liar", ServingPod(pod="liar", model=MODEL, serving=serving))
                got = await one.complete(prompt(1))
                assert got.status == 502 and "liar" in got.json["error"]["message"]
                assert one.reserved() == 0

    play(scenario())


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "xn--\u0000", "a..b", "256.256.256.256", "[::1"])
def test_a_host_that_is_no_name_has_the_next_pod_asked(host: str) -> None:
    async def scenario() -> None:
        async with rig(pods=1) as one:
            await one.complete(prompt(2))
            for name in ("bad0", "bad1"):  # idle, and the prompt is nobody's: one of them is tried first
                serving = Serving(url=f"http://{host}:80")
                one.atlas.set_serving(name, ServingPod(pod=name, model=MODEL, serving=serving))
            for seed in range(10, 16):
                assert (await one.complete(prompt(seed))).status == 200
            assert one.counts["retries"] >= 1 and one.reserved() == 0

    play(scenario())
