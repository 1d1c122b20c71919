"""What has been applied of an engine's batches, and what that makes of the worker's truth.

Thread safety: none; it belongs to a stream.
"""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from kvatlas.index.errors import InputError
from kvatlas.ingest.stream.live_buffer import LiveBatch
from kvatlas.ingest.stream.truth import Truth

HEALED_BY_HISTORY = ("lost", "unread", "missed", "missed_offloaded", "overpredicted", "underpredicted")
HEALED_BY_BATCH = ("silent", "lost_contact", "contradicted")

_RECENT = 256
"""Batches that are known again by their checksums."""
_LONG_AGO = float("-inf")


class StreamSink(Protocol):
    """What a stream writes into: a worker of an atlas."""

    def apply(self, payload: bytes) -> float | None:
        """Apply a batch; returns its time. Raises InputError when it cannot be read."""

    def restart(self) -> None:
        """Forget all: another incarnation of the engine, or its whole history, begins."""

    def lost(self) -> None:
        """Batches are lost for good: what is held may be gone. It settles "lost" when nothing is held."""


class History:
    """The last batch applied, and a memory of those shortly before it."""

    def __init__(self, sink: StreamSink, truth: Truth, counts: Counter[str]) -> None:
        self._sink = sink
        self._truth = truth
        self._counts = counts
        self.last: int | None = None
        """Number of the last batch."""
        self.checksum = 0
        """Of the last batch."""
        self.ts = _LONG_AGO
        """The newest time in a batch of this engine, by its own clock."""
        self._first = 0
        self._recent = [0] * _RECENT

    @property
    def next(self) -> int:
        """The number that follows."""
        return 0 if self.last is None else self.last + 1

    # Asking.

    def follows(self, batch: LiveBatch, *, in_time: bool) -> bool:
        """Whether it has the next number, and with `in_time` is not older than the last one."""
        return batch.seq == self.next and (not in_time or self.is_in_time(batch))

    def is_in_time(self, batch: LiveBatch) -> bool:
        """Whether it is not older than the last one."""
        return batch.ts is None or batch.ts >= self.ts

    def is_ahead(self, seq: int) -> bool:
        return self.last is None or seq > self.last

    @property
    def oldest(self) -> int:
        """The first number that is remembered, with all behind it."""
        assert self.last is not None
        return max(self._first, self.last - _RECENT + 1)

    def remembers(self, seq: int) -> bool:
        return self.last is not None and self.oldest <= seq <= self.last

    def knows(self, seq: int, checksum: int) -> bool:
        """Whether this very batch has been applied, shortly before."""
        return self.remembers(seq) and self._recent[seq % _RECENT] == checksum

    # Writing.

    def begin(self, seq: int, now_s: float) -> None:
        """The batch `seq` is the first that is known of this engine, from here on or from of old."""
        if self.last is not None:
            self._sink.restart()
        self._forget(seq)
        if seq > 0:
            self._truth.doubt("missed", now_s, f"batches before {seq}")
            self._sink.lost()  # nothing is held, but it must know that it has missed something
        healed = (doubt for doubt in HEALED_BY_HISTORY if doubt != "missed" or seq == 0)
        self._truth.settle("never_heard", *healed)

    def restart(self, now_s: float) -> None:
        """Another incarnation of the engine speaks: nothing of what is held is left, nothing known."""
        self._counts["restarts"] += 1
        self._truth.doubt("never_heard", now_s)
        self._sink.restart()
        self._forget(0)
        self._truth.settle(*HEALED_BY_BATCH, *HEALED_BY_HISTORY)

    def resume(self, seq: int, checksum: int) -> None:
        """What is held is as it was right behind this batch."""
        self._forget(seq)
        self.add(seq, checksum, None)
        self._truth.settle("never_heard")

    def lose(self, now_s: float, what: str) -> None:
        """Batches are lost for good."""
        self._counts["losses"] += 1
        self._truth.doubt("lost", now_s, what)
        self._truth.doubt("missed", now_s, what)
        self._sink.lost()

    def forget_content(self, now_s: float, why: str) -> None:
        """The sink has been emptied; the numbers go on."""
        self._sink.lost()
        self._truth.doubt("missed", now_s, why)

    def apply(self, seq: int, checksum: int, payload: bytes, now_s: float) -> None:
        """Apply the next batch; one that cannot be read is as good as lost."""
        ts = None
        try:
            ts = self._sink.apply(payload)
        except InputError as error:
            self.unread(str(error), now_s)
        self.add(seq, checksum, ts)

    def unread(self, why: str, now_s: float) -> None:
        """Something in the batch could not be read: a removal may be among it."""
        self._counts["unread"] += 1
        self._truth.doubt("unread", now_s, why)
        self._truth.doubt("missed", now_s, why)
        self._sink.lost()

    def add(self, seq: int, checksum: int, ts: float | None) -> None:
        """It has been applied, or will be at once."""
        if self.last is not None and seq != self.last + 1:
            self._first = seq
        self.last = seq
        self.checksum = self._recent[seq % _RECENT] = checksum
        if ts is not None:
            self.ts = ts

    def _forget(self, first: int) -> None:
        self.last = None
        self.ts = _LONG_AGO
        self._first = first
