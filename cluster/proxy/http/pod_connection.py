"""One connection to a pod: a request is sent, and its answer handed on as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from kvatlas.cluster.proxy.http.head import Headers, header

_HEADERS_MAX = 256
_BODILESS_BYTES_MAX = 1 << 20
"""Of heads and trailers, between two parts of bodies: the parser keeps what it has not finished."""


class AnswerSink(Protocol):
    """Takes one answer; the last call is `ended` or `broke`."""

    def head(self, status: int, headers: Headers, length: int | None) -> None:
        """`length` None: it is not known beforehand."""

    def body(self, data: bytes) -> None: ...
    def ended(self) -> None: ...
    def broke(self, why: str, *, is_late: bool = False) -> None:
        """`is_late`: it took too long."""


class PodConnection(asyncio.Protocol):
    """Carries one request after the other. On an event loop."""

    def __init__(
        self, answer_s_max: float, silence_s_max: float, gone: Callable[[PodConnection], None]
    ) -> None:
        """`gone` is called once, when the connection has ended."""
        self._answer_s_max = answer_s_max
        self._silence_s_max = silence_s_max
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._parser = httptools.HttpResponseParser(self)
        self._sink: AnswerSink | None = None
        self._headers: Headers = []
        self._is_interim = False
        self._is_open_ended = False
        self._has_head = False
        self._heard = False
        self._bodiless_bytes = 0
        self.requests = 0
        self.is_open = False
        self.is_reusable = False
        self.due_s = math.inf
        """When `expire` is to be called."""

    @property
    def has_heard(self) -> bool:
        """Whether anything of the present answer has come."""
        return self._heard

    def send(self, request: bytes, sink: AnswerSink) -> None:
        """Begins a request; the one before is over."""
        assert self._sink is None and self.is_open
        self.requests += 1
        self.is_reusable = False
        self._heard = False
        self._bodiless_bytes = 0
        self._sink = sink
        self.due_s = self._loop.time() + self._answer_s_max
        self._transport.write(request)

    def pause(self) -> None:
        """The client is slow: what comes waits in the pod's socket."""
        self._transport.pause_reading()
        self.due_s = math.inf

    def resume(self) -> None:
        if self._sink is not None:
            self.due_s = self._loop.time() + self._silence_s_max
        self._transport.resume_reading()

    def abort(self) -> None:
        """Ends it at once; the pod sees that nobody waits any more. The sink hears nothing further."""
        self._sink = None
        self.is_reusable = False
        self._transport.abort()

    def expire(self) -> None:
        """The pod was silent for too long."""
        self.due_s = math.inf
        if self._sink is None:
            self._transport.close()
            return
        allowed_s = self._silence_s_max if self._heard else self._answer_s_max
        self._break(f"expected an answer within {allowed_s:g} s", is_late=True)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        if self._sink is None:  # nothing was asked
            self._transport.abort()
            return
        self._heard = True
        self.due_s = self._loop.time() + self._silence_s_max
        self._bodiless_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._break(f"expected HTTP/1.1: {error}")
        if self._bodiless_bytes > _BODILESS_BYTES_MAX:
            self._break(f"expected a head of at most {_BODILESS_BYTES_MAX} bytes")

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = self.is_reusable = False
        self.due_s = math.inf
        if self._sink is not None:
            if self._is_open_ended and exc is None:
                self._finish()
            else:
                self._break(f"the connection ended: {exc or 'closed by the pod'}")
        self._gone(self)

    # The parser's callbacks.

    def on_message_begin(self) -> None:
        self._headers = []
        self._is_open_ended = False
        self._has_head = False
        if self._sink is None:  # more than was asked for: the next one's answer would be this
            self.is_reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self._headers) < _HEADERS_MAX and not self._has_head:  # no trailers
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._has_head = True
        status = self._parser.get_status_code()
        self._is_interim = 100 <= status < 200
        if self._is_interim or self._sink is None:
            return
        length = header(self._headers, b"content-length")
        is_bare = status in (204, 304)
        self._is_open_ended = not is_bare and length is None and not self._is_chunked()
        self._sink.head(status, self._headers, None if length is None else int(length))

    def on_body(self, body: bytes) -> None:
        self._bodiless_bytes = 0
        if self._sink is not None:
            self._sink.body(body)

    def on_message_complete(self) -> None:
        if not self._is_interim and self._sink is not None:
            self.is_reusable = self._parser.should_keep_alive()
            self._finish()

    def _is_chunked(self) -> bool:
        coding = header(self._headers, b"transfer-encoding")
        return coding is not None and b"chunked" in coding.lower()

    def _finish(self) -> None:
        sink, self._sink = self._sink, None
        self.due_s = math.inf
        assert sink is not None
        sink.ended()

    def _break(self, why: str, *, is_late: bool = False) -> None:
        sink, self._sink = self._sink, None
        self.is_reusable = False
        with contextlib.suppress(OSError):
            self._transport.abort()
        if sink is not None:
            sink.broke(why, is_late=is_late)
