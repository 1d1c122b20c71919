"""How much may wait to be written: seconds, at the rate that writes go through at present."""

from __future__ import annotations

import math

_MEMORY_S = 10.0  # what was measured counts less and less, over so long
_FIRST_RATE = 256e6  # bytes a second, of a store that nobody has written to yet; one second's weight
_RATE_MIN = 1.0


class WriteBudget:
    """Admits bytes to a queue as long as it can be emptied within `seconds`; one thread.

    An empty queue always takes something: else a store that was slow once would never be measured again.
    """

    def __init__(self, seconds: float, now_s: float) -> None:
        self._seconds = seconds
        self._bytes, self._busy_s = _FIRST_RATE, 1.0
        self._mark_s = now_s
        self.queued_bytes = 0

    def admit(self, chunk_bytes: int, n_chunks: int, now_s: float) -> int:
        """How many chunks, of n_chunks, go into the queue; they count as queued from now on."""
        if self.queued_bytes == 0:
            self._mark_s = now_s
        room = int((self.rate(now_s) * self._seconds - self.queued_bytes) // max(chunk_bytes, 1))
        admitted = min(n_chunks, max(room, 1 if self.queued_bytes == 0 else 0))
        self.queued_bytes += admitted * chunk_bytes
        return admitted

    def withdraw(self, n_bytes: int) -> None:
        """They were admitted and then not queued after all."""
        self.queued_bytes -= n_bytes

    def finished(self, queued_bytes: int, written_bytes: int, now_s: float) -> None:
        """So much has left the queue, of which so much was written."""
        elapsed_s = max(now_s - self._mark_s, 0.0)
        fade = math.exp(-elapsed_s / _MEMORY_S)
        self._bytes = self._bytes * fade + written_bytes
        self._busy_s = self._busy_s * fade + elapsed_s
        self._mark_s = now_s
        self.queued_bytes -= queued_bytes

    def rate(self, now_s: float) -> float:
        """Bytes a second; falls while the queue stands still."""
        waiting_s = max(now_s - self._mark_s, 0.0) if self.queued_bytes else 0.0
        return max(self._bytes / max(self._busy_s + waiting_s, 1e-6), _RATE_MIN)
