"""Messages between the thread that receives them and the one that writes them down: bounded."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence

import msgspec

_MESSAGE_BYTES = 200
_FRAME_BYTES = 40


class Received(msgspec.Struct, frozen=True):
    """One message, with the monotonic time at which it was taken from its socket."""

    source: int
    frames: Sequence[bytes]
    monotonic_ns: int


class Taken(msgspec.Struct, frozen=True):
    """What waited, and behind it what did not fit: messages by source, and when the first was dropped."""

    received: list[Received]
    lost: dict[int, int]
    lost_ns: int


class RecorderQueue:
    """Holds at most `bytes_max` bytes of messages, counting what their objects cost.

    Once a message did not fit, none does until the writer has taken all: so a loss is one place in the
    order, behind what was kept. One thread puts, another takes.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._changed = threading.Condition()
        self._received: list[Received] = []
        self._bytes = 0
        self._lost: Counter[int] = Counter()
        self._lost_ns = 0
        self._is_closed = False

    def put(self, message: Received) -> bool:
        """False when it was dropped; it will be among what `take` says is lost."""
        size = _MESSAGE_BYTES + sum(len(frame) + _FRAME_BYTES for frame in message.frames)
        with self._changed:
            if self._lost or self._bytes + size > self._bytes_max or self._is_closed:
                self._lost_ns = self._lost_ns if self._lost else message.monotonic_ns
                self._lost[message.source] += 1
                return False
            self._received.append(message)
            self._bytes += size
            if len(self._received) == 1:
                self._changed.notify()
            return True

    def take(self, timeout_s: float) -> Taken | None:
        """All that waits, after at most so long; None when it is closed and nothing waits."""
        with self._changed:
            if not self._received and not self._lost and not self._is_closed:
                self._changed.wait(timeout_s)
            if self._is_closed and not self._received and not self._lost:
                return None
            taken = Taken(self._received, dict(self._lost), self._lost_ns)
            self._received = []
            self._lost.clear()
            self._bytes = 0
            return taken

    def close(self) -> None:
        """What waits can still be taken."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    @property
    def waiting_bytes(self) -> int:
        return self._bytes
