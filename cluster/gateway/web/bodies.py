"""Bodies of requests: read within bounds of bytes, time and nesting, then decoded."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

from kvatlas.cluster.config.gateway_config import GatewayLimits
from kvatlas.cluster.gateway.web.refusals import RefusedError

T = TypeVar("T")
# One that nobody closes goes to the end: were it no match, each quote in it would be tried anew.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)


class Bodies:
    """Reads bodies on one event loop. What it holds at a time is bounded in all and each."""

    def __init__(self, limits: GatewayLimits) -> None:
        self._limits = limits
        self.counts: Counter[str] = Counter()
        self.held_bytes = 0
        """Of requests that are read or answered."""

    @contextmanager
    def room(self) -> Iterator[Room]:
        """For one request: what it takes is given back at the end."""
        room = Room(self, self._limits.bodies_bytes_max)
        try:
            yield room
        finally:
            self.held_bytes -= room.taken_bytes

    async def read(self, headers: Any, receive: Any, room: Room) -> bytes:
        """The whole body. Raises RefusedError: 400, 408, 413, 503 when it breaks a bound."""
        self._check_announced(headers.get("content-length"))
        try:
            return await asyncio.wait_for(self._gather(receive, room), self._limits.body_s_max)
        except (TimeoutError, asyncio.TimeoutError):
            self.counts["slow_bodies"] += 1
            raise RefusedError(
                408, "slow_body", f"expected the whole body within {self._limits.body_s_max:g} s"
            ) from None

    def decode(self, body: bytes, kind: type[T]) -> T:
        """Raises msgspec.MsgspecError; RefusedError, 400, for values nested too deeply or too many."""
        self._check_containers(body)
        try:
            return msgspec.json.decode(body, type=kind)
        except RecursionError:
            raise RefusedError(
                400, "invalid_request", "expected JSON, got values nested too deeply", where="$"
            ) from None
        except UnicodeDecodeError as error:
            raise RefusedError(400, "invalid_request", f"expected UTF-8, {error.reason}", where="$") from None

    async def _gather(self, receive: Any, room: Room) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.counts["broken_bodies"] += 1
                raise RefusedError(400, "broken_body", "expected the whole body, the connection has ended")
            part = message.get("body", b"")
            size += len(part)
            self._check_size(size)
            room.take(len(part))
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)

    def _check_announced(self, length: str | None) -> None:
        if length is not None and length.isascii() and length.isdigit():
            self._check_size(int(length[:20]))

    def _check_size(self, size: int) -> None:
        if size > self._limits.body_bytes_max:
            self.counts["large_bodies"] += 1
            raise RefusedError(
                413, "too_large", f"expected a body of at most {self._limits.body_bytes_max} bytes, got more"
            )

    def _check_containers(self, body: bytes) -> None:
        """Empty lists take thirty times the memory of their text; brackets in texts do not count."""
        most = self._limits.containers_max
        if has_more_containers(body, most):
            self.counts["json_bombs"] += 1
            raise RefusedError(
                400, "invalid_request", f"expected at most {most} objects and lists, got more", where="$"
            )


def has_more_containers(body: bytes, most: int) -> bool:
    """Whether a JSON text opens more than so many objects and lists."""
    if body.count(b"[") + body.count(b"{") <= most:
        return False
    bare = _STRING.sub(b"", body)
    return bare.count(b"[") + bare.count(b"{") > most


class Room:
    """What one request holds of the bytes of all."""

    def __init__(self, bodies: Bodies, most: int) -> None:
        self._bodies = bodies
        self._most = most
        self.taken_bytes = 0

    def take(self, size: int) -> None:
        """Raises RefusedError, 503, where there is none left."""
        if self._bodies.held_bytes + size > self._most:
            self._bodies.counts["refused_bodies"] += 1
            raise RefusedError(
                503,
                "overloaded",
                f"expected at most {self._most} bytes of requests at a time",
                retry_after_s=1,
            )
        self._bodies.held_bytes += size
        self.taken_bytes += size
