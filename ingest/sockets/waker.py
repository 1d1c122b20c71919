"""Wakes a thread that waits for sockets."""

from __future__ import annotations

import contextlib
import socket

_READ_BYTES = 4096


class Waker:
    """Has a file descriptor that is readable from `wake` until `clear`. Any thread may wake."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        return self._reader.fileno()

    def wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it is awake already; closed: nobody waits
            self._writer.send(b"\0")

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while len(self._reader.recv(_READ_BYTES)) == _READ_BYTES:
                pass

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
