"""Live batches that wait while older ones are being replayed."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple


class LiveBatch(NamedTuple):
    """A batch as it came."""

    seq: int
    checksum: int
    ts: float | None
    payload: bytes


class LiveBuffer:
    """In order of arrival, bounded by number and bytes: what comes beyond is dropped and noted."""

    def __init__(self, batches_max: int, bytes_max: int) -> None:
        self._batches_max = batches_max
        self._bytes_max = bytes_max
        self._waiting: deque[LiveBatch] = deque()
        self._n_asked = 0
        self.n_bytes = 0
        self.dropped = 0
        """Batches that found no room, ever."""
        self.overflowed = False
        """Whether some did since the last `take_overflow`."""

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, batch: LiveBatch) -> None:
        n_bytes = self.n_bytes + len(batch.payload)
        if len(self._waiting) >= self._batches_max or n_bytes > self._bytes_max:
            self.dropped += 1
            self.overflowed = True
            return
        self.n_bytes = n_bytes
        self._waiting.append(batch)

    def asked(self) -> None:
        """A replay is asked for now: its answer holds all that has arrived until now."""
        self._n_asked = len(self._waiting)

    def pop(self) -> tuple[LiveBatch, bool]:
        """The oldest one, and whether it had arrived when the replay was asked for."""
        batch = self._waiting.popleft()
        self.n_bytes -= len(batch.payload)
        old = self._n_asked > 0
        if old:
            self._n_asked -= 1
        return batch, old

    def put_back(self, batch: LiveBatch) -> None:
        """The one that was popped last, as the oldest again."""
        self.n_bytes += len(batch.payload)
        self._waiting.appendleft(batch)

    def take_overflow(self) -> bool:
        overflowed, self.overflowed = self.overflowed, False
        return overflowed

    def clear(self) -> None:
        self._waiting.clear()
        self.overflowed = False
        self.n_bytes = self._n_asked = 0
