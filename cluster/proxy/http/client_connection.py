"""One connection of a client: requests are read from it within bounds, one after the other, and answered.

waits ──first byte──> head ──> body ──> answering ──> waits
  idle_s_max      head_s_max  body_s_max     │ client is slow: reading_s_max
                                             └ not kept alive, or a bound was broken: ends
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from typing import Any, Literal, Protocol, cast

import httptools

from kvatlas.cluster.config.proxy_config import ProxyLimits
from kvatlas.cluster.proxy.http.head import Headers, answer_head, error_body, header
from kvatlas.cluster.proxy.http.request import Arriving, BodyRoom, Request

_HEADERS_MAX = 128
_PIPELINED_MAX = 4
_LINGER_S = 2.0
"""A client that was refused may still be sending: closed at once, it might not see why."""
_LAST_CHUNK = b"0\r\n\r\n"

Phase = Literal["waits", "head", "body", "answering", "ending"]


class Pausable(Protocol):
    """Where an answer comes from: asked to wait while the client is slow."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...


class ClientConnection(asyncio.Protocol):
    """Reads requests and has `serve` answer them through `answer`, or `begin`, `write` and `end`.

    On an event loop. `serve` is cancelled when the client goes away. What a client sends ahead waits in
    the socket, so the bounds of one request are those of the connection.
    """

    def __init__(
        self,
        serve: Callable[[Request, ClientConnection], Coroutine[Any, Any, None]],
        limits: ProxyLimits,
        room: BodyRoom,
        counts: Counter[str],
        is_full: Callable[[], bool],
        gone: Callable[[ClientConnection], None],
    ) -> None:
        self._serve = serve
        self._limits = limits
        self._room = room
        self._counts = counts
        self._is_full = is_full
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._parser = httptools.HttpRequestParser(self)
        self._phase: Phase = "waits"
        self._arriving = Arriving()
        self._head_bytes = 0
        """Since the last part of a body: of heads, trailers, and what chunks say of themselves."""
        self._taken = 0
        self._waiting: deque[Request] = deque()
        self._request: Request | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_chunked = False
        self._is_paused = False
        self._ends = False
        self._is_broken_off = False
        self._source: Pausable | None = None
        self.has_begun = False
        """Whether the client has been told anything of the answer."""
        self.status = 0
        """Of the answer; 0: it has not begun."""
        self.due_s = self._loop.time() + limits.head_s_max
        """When `expire` is to be called; infinity: never."""

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._is_full():
            self._counts["refused_connections"] += 1
            self._refuse(503, "overloaded", "expected fewer connections; try again", retry_after_s=1)

    def data_received(self, data: bytes) -> None:
        if self._phase == "ending":
            return
        if self._phase == "waits":
            self._set_phase("body" if self._arriving.has_head else "head")
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._ends = True  # we stay with HTTP/1.1, and know no more where a next request would begin
        except httptools.HttpParserError as error:
            self._counts["malformed_requests"] += 1
            self._refuse(400, "malformed_request", f"expected HTTP/1.1: {error}")
        is_large = self._head_bytes > self._limits.head_bytes_max
        if is_large and self._phase in ("head", "body"):
            self._refuse_large_head()
        if len(self._waiting) >= _PIPELINED_MAX or (is_large and self._phase == "answering"):
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        return False  # a client that has closed its half has gone: nothing says that it still reads

    def connection_lost(self, exc: Exception | None) -> None:
        self._phase = "ending"
        self.due_s = math.inf
        self._waiting.clear()
        self._give_back(self._taken)
        if self._task is not None and not self._is_broken_off:
            self._counts["clients_gone"] += 1
            self._task.cancel()
        self._gone(self)

    def pause_writing(self) -> None:
        self._is_paused = True
        self.due_s = self._loop.time() + self._limits.reading_s_max
        if self._source is not None:
            self._source.pause()

    def resume_writing(self) -> None:
        self._is_paused = False
        if self._phase == "answering":
            self.due_s = math.inf
        if self._source is not None:
            self._source.resume()

    # The parser's callbacks.

    def on_message_begin(self) -> None:
        self._arriving = Arriving()

    def on_url(self, url: bytes) -> None:
        self._arriving.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._arriving.has_head:
            return  # a trailer: nobody may say afterwards who he is, or where the body ends
        if len(self._arriving.headers) >= _HEADERS_MAX:
            self._refuse_large_head()
            return
        self._arriving.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._phase == "ending":
            return
        self._head_bytes = 0
        self._arriving.has_head = True
        headers = self._arriving.headers
        length = header(headers, b"content-length")
        if length is not None and int(length) > self._limits.body_bytes_max:
            self._refuse_large_body()
            return
        if self._phase == "head":
            self._set_phase("body")
        has_body = length not in (None, b"0") or header(headers, b"transfer-encoding") is not None
        if has_body and self._parser.should_upgrade():  # the parser takes it for the other protocol
            self._refuse(400, "malformed_request", "expected HTTP/1.1 with a body, got an upgrade with one")
            return
        # Amid another's answer it would be a part of that.
        if header(headers, b"expect") == b"100-continue" and self._task is None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        if self._phase == "ending":
            return
        self._head_bytes = 0
        arriving = self._arriving
        if len(arriving.body) + len(body) > self._limits.body_bytes_max:
            self._refuse_large_body()
            return
        if not self._room.take(len(body)):
            self._counts["refused_bodies"] += 1
            self._refuse(503, "overloaded", "expected fewer bodies at one time", retry_after_s=1)
            return
        self._taken += len(body)
        arriving.body += body

    def on_message_complete(self) -> None:
        if self._phase == "ending":
            return
        arriving = self._arriving
        request = Request(
            method=self._parser.get_method(),
            target=arriving.target,
            headers=arriving.headers,
            body=bytes(arriving.body),
            is_kept_alive=self._parser.should_keep_alive(),
            is_chunked_fine=self._parser.get_http_version() == "1.1",
        )
        self._arriving = Arriving()
        if self._task is None:
            self._begin_serving(request)
        elif len(self._waiting) < _PIPELINED_MAX:
            self._waiting.append(request)
        else:
            self._ends = True  # it may ask again on another connection

    # Answering.

    def begin(self, status: int, headers: Headers, length: int | None) -> None:
        """The head of the answer; `length` None: not known beforehand."""
        request = self._request
        assert request is not None and not self.has_begun
        self.has_begun = True
        self.status = status
        has_body = status >= 200 and status not in (204, 304)
        self._is_chunked = length is None and has_body and request.is_chunked_fine
        if length is None and has_body and not request.is_chunked_fine:
            self._ends = True
        self._ends = self._ends or not request.is_kept_alive
        framing: Headers = []
        if self._is_chunked:
            framing.append((b"transfer-encoding", b"chunked"))
        elif length is not None:
            framing.append((b"content-length", b"%d" % length))
        if self._ends:
            framing.append((b"connection", b"close"))
        elif not request.is_chunked_fine:
            framing.append((b"connection", b"keep-alive"))
        self._transport.write(answer_head(status, [*headers, *framing]))

    def follow(self, source: Pausable) -> None:
        """The answer comes from there: it is asked to wait while the client is slow."""
        self._source = source
        if self._is_paused:
            source.pause()

    def write(self, data: bytes) -> None:
        if not data or self._transport.is_closing():
            return
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)

    def end(self) -> None:
        """The answer is whole."""
        if self._is_chunked:
            self._transport.write(_LAST_CHUNK)

    def answer(self, status: int, body: bytes, headers: Headers | None = None) -> None:
        """A whole answer, JSON unless `headers` say otherwise."""
        self.begin(status, headers or [(b"content-type", b"application/json")], len(body))
        if self._request is not None and self._request.method != b"HEAD":
            self.write(body)
        self.end()

    def break_off(self) -> None:
        """The answer cannot be made whole: the client must see that it is not."""
        self._is_broken_off = True
        self._transport.abort()

    # Time.

    def expire(self) -> None:
        """Its time is over, whatever it was for."""
        self.due_s = math.inf
        if self._phase == "waits":
            self._transport.close()
        elif self._phase in ("head", "body"):
            self._counts["slow_requests"] += 1
            self._refuse(408, "slow_request", f"expected the whole {self._phase} of the request sooner")
        else:
            self._counts["slow_readers"] += self._phase == "answering"
            self._transport.abort()

    def close_when_idle(self) -> None:
        """No further requests: the one that is being answered is the last."""
        self._ends = True
        self._waiting.clear()
        if self._task is None:
            self._transport.close()

    def close(self) -> None:
        """At once."""
        self._transport.abort()

    # Parts.

    def _begin_serving(self, request: Request) -> None:
        self._set_phase("answering")
        self._request = request
        self.has_begun = False
        self.status = 0
        self._task = self._loop.create_task(self._serve(request, self))
        self._task.add_done_callback(self._served)

    def _served(self, task: asyncio.Task[None]) -> None:
        assert self._request is not None
        self._give_back(len(self._request.body))
        self._task = self._request = self._source = None
        if not task.cancelled() and task.exception() is not None:
            self._counts["failed_answers"] += 1
            self._loop.call_exception_handler(
                {"message": "proxy: a request could not be answered", "exception": task.exception()}
            )
            self._transport.abort()
        if self._phase == "ending":
            return
        if self._ends or not self.has_begun:
            self._set_phase("ending")
            self._transport.close()  # what is written is sent before
            self.due_s = self._loop.time() + self._limits.reading_s_max
        elif self._waiting:
            self._begin_serving(self._waiting.popleft())
        else:
            self._set_phase("waits")
            self._transport.resume_reading()

    def _set_phase(self, phase: Phase) -> None:
        self._phase = phase
        limits = self._limits
        lasts_s = {
            "waits": limits.idle_s_max,
            "head": limits.head_s_max,
            "body": limits.body_s_max,
            "answering": limits.reading_s_max if self._is_paused else math.inf,
            "ending": _LINGER_S,
        }[phase]
        self.due_s = self._loop.time() + lasts_s
        if phase == "head":
            self._head_bytes = 0

    def _give_back(self, size: int) -> None:
        size = min(size, self._taken)  # all of it has been given back when the client has gone
        self._room.held -= size
        self._taken -= size

    def _refuse(self, status: int, kind: str, message: str, retry_after_s: int | None = None) -> None:
        """Says so, then reads on for a moment without listening."""
        if self._phase == "ending":
            return
        if self._task is not None:  # it has asked more before it was answered
            self._ends = True
            return
        self._set_phase("ending")
        self._arriving = Arriving()
        self._give_back(self._taken)
        body = error_body(status, kind, message)
        headers: Headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        if retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % retry_after_s))
        self._transport.write(answer_head(status, headers) + body)
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def _refuse_large_head(self) -> None:
        self._counts["large_heads"] += 1
        self._refuse(431, "large_head", f"expected headers of at most {self._limits.head_bytes_max} bytes")

    def _refuse_large_body(self) -> None:
        self._counts["large_bodies"] += 1
        self._refuse(413, "large_body", f"expected a body of at most {self._limits.body_bytes_max} bytes")
