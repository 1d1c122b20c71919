"""A client of many streams at once, that costs little itself: bytes are counted, not read."""

from __future__ import annotations

import asyncio
import json
import time
from typing import NamedTuple, cast

import httptools


class Stream(NamedTuple):
    """What one stream was like."""

    first_s: float
    """From the request to the first part of its answer."""
    whole_s: float
    parts: int
    status: int


class StreamingClient(asyncio.Protocol):
    """Asks once, and is done when the answer is."""

    def __init__(self, request: bytes) -> None:
        self.done: asyncio.Future[Stream] = asyncio.get_running_loop().create_future()
        self._request = request
        self._parser = httptools.HttpResponseParser(self)
        self._transport = cast(asyncio.Transport, None)
        self._parts = 0
        self._began = self._first = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._began = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError(f"cut after {self._parts} parts: {exc}"))

    def on_body(self, body: bytes) -> None:
        if not self._parts:
            self._first = time.perf_counter()
        self._parts += 1

    def on_message_complete(self) -> None:
        now = time.perf_counter()
        first = self._first - self._began
        self.done.set_result(Stream(first, now - self._began, self._parts, self._parser.get_status_code()))
        self._transport.close()


def request(model: str, prompt: list[int], tokens: int) -> bytes:
    body = json.dumps({"model": model, "prompt": prompt, "max_tokens": tokens, "stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: bench\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def ask(url: str, asked: bytes) -> Stream:
    host, _, port = url.removeprefix("http://").rpartition(":")
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(lambda: StreamingClient(asked), host, int(port))
    stream = await client.done
    assert stream.status == 200, stream
    return stream


async def ask_many(urls: list[str], requests: list[bytes], *, apart_s: float) -> list[Stream]:
    """All of them, one begun after the other; request i goes to url i, around."""
    running = []
    for place, asked in enumerate(requests):
        running.append(asyncio.ensure_future(ask(urls[place % len(urls)], asked)))
        await asyncio.sleep(apart_s)
    return list(await asyncio.gather(*running))
