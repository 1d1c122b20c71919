"""A pod without a model: OpenAI's API over a simulated prefix cache, for tests, benchmarks and examples.

What it answers is made up; what it reuses, reports as usage and publishes as events is real, and it takes
the time it is told to.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import httptools
import msgspec

from kvatlas.cluster.proxy.http.head import Headers, answer_head
from kvatlas.cluster.proxy.simulator.answers import chunk, models, usage_chunk, usage_of, whole
from kvatlas.index.errors import InputError
from kvatlas.ingest.simulator.block_pool import OutOfBlocksError
from kvatlas.ingest.simulator.request import SimulatedRequest
from kvatlas.ingest.simulator.server import SimulatedServer

Mood = Literal["fine", "silent", "breaks", "cuts", "fails", "mute"]
"""Of a pod: `silent` never answers, `breaks` closes instead, `cuts` closes in the middle of a stream,
`fails` answers 500, `mute` begins a stream and says nothing more."""

_REQUESTS_REMEMBERED = 1024
_JSON: Headers = [(b"content-type", b"application/json")]
_OUTPUT_TOKENS = 16


@dataclass(frozen=True)
class Received:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class OpenAiPod:
    """Serves on the event loop that runs. Not safe to use from other threads, but for `mood` and counts."""

    server: SimulatedServer
    prefill_tokens_per_s: float = math.inf
    tokens_per_s: float = math.inf
    """Of one stream."""
    token_ids_of: Callable[[dict[str, Any]], Sequence[int]] = lambda body: list(msgspec.json.encode(body))
    """The prompt of a chat or text: by default the bytes of its JSON."""
    mood: Mood = "fine"
    requests: deque[Received] = field(default_factory=lambda: deque(maxlen=_REQUESTS_REMEMBERED))
    counts: Counter[str] = field(default_factory=Counter)
    _listening: asyncio.Server | None = None
    _open: set[_Connection] = field(default_factory=set)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listens; returns its URL."""
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(lambda: _Connection(self, self._open), host, port)
        host, port = self._listening.sockets[0].getsockname()[:2]
        return f"http://{host}:{port}"

    def stop(self) -> None:
        """Closes its socket and its connections; twice is fine."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        for connection in list(self._open):
            connection.close()


class _Connection(asyncio.Protocol):
    def __init__(self, pod: OpenAiPod, among: set[_Connection]) -> None:
        self._pod = pod
        self._among = among
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._parser = httptools.HttpRequestParser(self)
        self._path = b""
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self._work: SimulatedRequest | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._pod.counts["connections"] += 1
        self._among.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._among.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._work is not None:
            self._pod.counts["aborted"] += 1
            self._finish()

    def close(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._path, self._headers, self._body = b"", {}, bytearray()

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        pod, path = self._pod, self._path.decode("latin-1")
        body = msgspec.json.decode(bytes(self._body)) if self._body else {}
        pod.requests.append(Received(path, self._headers, body))
        pod.counts["requests"] += 1
        if pod.mood == "silent":
            return
        if pod.mood == "breaks":
            self._transport.abort()
        elif pod.mood == "fails":
            self._answer(500, b'{"error":{"message":"it failed","type":"InternalServerError","code":500}}')
        elif path in ("/v1/completions", "/v1/chat/completions"):
            self._complete(body, is_chat="chat" in path)
        elif path == "/v1/models":
            self._answer(200, msgspec.json.encode(models(pod.server.model)))
        else:
            self._answer(200, msgspec.json.encode({"path": path, "pod": pod.server.pod}))

    def _complete(self, body: dict[str, Any], *, is_chat: bool) -> None:
        pod = self._pod
        prompt = body.get("prompt")
        try:
            token_ids = prompt if isinstance(prompt, list) and prompt else pod.token_ids_of(body)
            work = pod.server.prefill(token_ids, cache_salt=body.get("cache_salt"))
        except (InputError, OutOfBlocksError) as error:
            status = 400 if isinstance(error, InputError) else 503
            told = {"message": str(error), "type": "BadRequestError", "code": status}
            return self._answer(status, msgspec.json.encode({"error": told}))
        pod.server.step()  # its events leave when the prompt is computed
        self._work = work
        wanted = body.get("max_completion_tokens") or body.get("max_tokens") or _OUTPUT_TOKENS
        computed_s = (work.prompt_tokens - work.cached_tokens) / pod.prefill_tokens_per_s
        stream = _Stream(body, wanted, is_chat, f"cmpl-{pod.counts['requests']}", work)
        if body.get("stream") is True:
            self._timer = self._loop.call_later(computed_s, self._begin_stream, stream)
        else:
            all_s = computed_s + wanted / pod.tokens_per_s
            self._timer = self._loop.call_later(all_s, self._answer_whole, stream)
        return None

    def _begin_stream(self, stream: _Stream) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"transfer-encoding", b"chunked")]
        self._transport.write(answer_head(200, headers))
        self._tick(stream)

    def _tick(self, stream: _Stream) -> None:
        pod = self._pod
        if pod.mood == "cuts" and stream.sent >= 2:
            return self._transport.abort()
        if pod.mood == "mute" and stream.sent >= 2:
            return None
        if stream.sent < stream.wanted:
            self._write(chunk(stream.id, pod.server.model, stream.sent, is_chat=stream.is_chat))
            stream.sent += 1
            self._timer = self._loop.call_later(1 / pod.tokens_per_s, self._tick, stream)
            return None
        if (stream.body.get("stream_options") or {}).get("include_usage"):
            self._write(usage_chunk(stream.id, pod.server.model, stream.work, stream.wanted))
        self._write(b"data: [DONE]\n\n")
        self._transport.write(b"0\r\n\r\n")
        self._finish(stream.wanted)
        return None

    def _answer_whole(self, stream: _Stream) -> None:
        pod = self._pod
        told = whole(stream.id, pod.server.model, stream.wanted, is_chat=stream.is_chat)
        told["usage"] = usage_of(stream.work, stream.wanted)
        told["pod"] = pod.server.pod
        if (stream.body.get("kv_transfer_params") or {}).get("do_remote_decode"):
            told["kv_transfer_params"] = {"remote_engine_id": pod.server.pod, "do_remote_prefill": True}
        self._finish(stream.wanted)
        self._answer(200, msgspec.json.encode(told))

    def _finish(self, tokens: int = 0) -> None:
        work, self._work = self._work, None
        if work is None:
            return
        try:
            self._pod.server.decode(work, tokens)
        except OutOfBlocksError:
            self._pod.counts["short_of_blocks"] += 1
        self._pod.server.finish(work)
        self._pod.server.step()

    def _write(self, event: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(b"%x\r\n%b\r\n" % (len(event), event))

    def _answer(self, status: int, body: bytes) -> None:
        length = (b"content-length", b"%d" % len(body))
        self._transport.write(answer_head(status, [*_JSON, length]) + body)


@dataclass
class _Stream:
    body: dict[str, Any]
    wanted: int
    is_chat: bool
    id: str
    work: SimulatedRequest
    sent: int = 0
