"""A pod's answer on its way to the client, or, of a prefill, to us."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from kvatlas.cluster.proxy.answer_scan import NO_USAGE, StreamScan, Usage, WholeScan
from kvatlas.cluster.proxy.http.client_connection import ClientConnection
from kvatlas.cluster.proxy.http.head import Headers, forwarded, header
from kvatlas.cluster.proxy.http.pod_connection import PodConnection

_GATHERED_BYTES_MAX = 16 << 20


class Ending(NamedTuple):
    """How one attempt ended."""

    status: int = 0
    """Of the pod's answer; 0: it had not begun."""
    usage: Usage = NO_USAGE
    parts: int = 0
    """Of a stream, that have passed."""
    broken: str = ""
    """Why it is not whole; empty: it is."""
    is_late: bool = False

    @property
    def is_good(self) -> bool:
        return not self.broken and 200 <= self.status < 300


class Relay:
    """Hands an answer on as it comes. Nothing is held but what both sockets hold.

    A client that reads slowly has the pod wait.
    """

    def __init__(
        self,
        client: ClientConnection,
        connection: PodConnection,
        added: Headers,
        *,
        strips_usage: bool,
        first: Callable[[], None],
        produced: Callable[[int], None],
        produced_each: int,
    ) -> None:
        """`first` is called with the first part of a good stream, `produced` after each so many."""
        self.done: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._client = client
        self._connection = connection
        self._added = added
        self._strips_usage = strips_usage
        self._first = first
        self._produced = produced
        self._produced_each = produced_each
        self._told_at = produced_each
        self._status = 0
        self._scan: StreamScan | WholeScan = WholeScan(client.write)
        self._is_stream = False
        self._has_body = False

    @property
    def ending(self) -> Ending:
        """As far as it has come."""
        return Ending(self._status, parts=self._scan.parts)

    def head(self, status: int, headers: Headers, length: int | None) -> None:
        self._status = status
        self._is_stream = status == 200 and _is_stream(headers)
        if self._is_stream:
            self._scan = StreamScan(self._client.write, strips_usage=self._strips_usage)
            length = None
        passed = forwarded(headers, (b"content-length", *(name for name, _ in self._added)))
        self._client.begin(status, [*passed, *self._added], length)
        self._client.follow(self._connection)

    def body(self, data: bytes) -> None:
        if not self._has_body:
            self._has_body = True
            if self._is_stream:
                self._first()
        self._scan.take(data)
        if self._scan.parts >= self._told_at:
            self._told_at = self._scan.parts + self._produced_each
            self._produced(self._scan.parts)

    def ended(self) -> None:
        usage = self._scan.end()
        self._client.end()
        self._finish(Ending(self._status, usage, self._scan.parts))

    def broke(self, why: str, *, is_late: bool = False) -> None:
        if self._status:
            self._client.break_off()
        self._finish(Ending(self._status, parts=self._scan.parts, broken=why, is_late=is_late))

    def _finish(self, ending: Ending) -> None:
        if not self.done.done():  # else nobody waits any more
            self.done.set_result(ending)


class Gathering:
    """Keeps an answer that is for us."""

    def __init__(self) -> None:
        self.done: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self.text = bytearray()
        self._status = 0

    def head(self, status: int, headers: Headers, length: int | None) -> None:
        self._status = status

    def body(self, data: bytes) -> None:
        if len(self.text) + len(data) <= _GATHERED_BYTES_MAX:
            self.text += data

    def ended(self) -> None:
        self._finish(Ending(self._status))

    def broke(self, why: str, *, is_late: bool = False) -> None:
        self._finish(Ending(self._status, broken=why, is_late=is_late))

    def _finish(self, ending: Ending) -> None:
        if not self.done.done():
            self.done.set_result(ending)


def _is_stream(headers: Headers) -> bool:
    kind = header(headers, b"content-type")
    return kind is not None and kind.lower().startswith(b"text/event-stream")
