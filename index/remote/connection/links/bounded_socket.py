"""A socket on which everything ends at one moment, however the other side drips its bytes."""

from __future__ import annotations

import socket
import time
from typing import Any


class TooManyBytesError(OSError):
    """The answers have more bytes than was allowed."""


class BoundedSocket:
    """Stands before a connected socket. `until_s` (monotonic) and `bytes_left` are set for each exchange. One
    thread."""

    def __init__(self, inner: socket.socket, until_s: float, bytes_left: int) -> None:
        self._inner = inner
        self.until_s = until_s
        self.bytes_left = bytes_left

    def recv(self, size: int, flags: int = 0) -> bytes:
        self._allow()
        data = self._inner.recv(size, flags) if flags else self._inner.recv(size)
        self._count(len(data))
        return data

    def recv_into(self, buffer: Any) -> int:
        self._allow()
        count = self._inner.recv_into(buffer)
        self._count(count)
        return count

    def sendall(self, data: bytes) -> None:
        self._allow()
        self._inner.sendall(data)

    def settimeout(self, _timeout_s: float | None) -> None:
        """Nothing: the moment alone counts."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _allow(self) -> None:
        left_s = self.until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the time is over")
        self._inner.settimeout(left_s)

    def _count(self, count: int) -> None:
        self.bytes_left -= count
        if self.bytes_left < 0:
            raise TooManyBytesError("answers of too many bytes")
