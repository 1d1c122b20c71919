"""Delta records on their way to a server: in pieces of about one request, each until it has arrived."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from kvatlas.index.deltas import RECORD_HEAD


class RemoteWork:
    """What has been taken from the mirrors and is to be written, in order. One thread at a time."""

    def __init__(self, batch_bytes_max: int) -> None:
        self._batch_bytes_max = batch_bytes_max
        self._batches: deque[bytes] = deque()
        self.bytes = 0

    def __bool__(self) -> bool:
        return bool(self._batches)

    def put(self, pieces: Iterable[bytes]) -> None:
        """Pieces of whole records; they are cut where a request would be too long, and joined where short."""
        batch: list[bytes] = []
        size = 0
        for piece in pieces:
            for part in _cut(piece, self._batch_bytes_max):
                if size and size + len(part) > self._batch_bytes_max:
                    self._batches.append(b"".join(batch))
                    batch, size = [], 0
                batch.append(part)
                size += len(part)
                self.bytes += len(part)
        if size:
            self._batches.append(b"".join(batch))

    @property
    def first(self) -> bytes:
        return self._batches[0]

    def done(self) -> None:
        """The first has arrived."""
        self.bytes -= len(self._batches.popleft())

    def clear(self) -> None:
        self._batches.clear()
        self.bytes = 0


def _cut(records: bytes, bytes_max: int) -> Iterable[bytes]:
    """Between records; one that is longer alone stays whole."""
    begin = end = 0
    while len(records) - begin > bytes_max:
        while end < len(records):
            next_end = end + RECORD_HEAD.size + 8 * RECORD_HEAD.unpack_from(records, end)[3]
            if end > begin and next_end - begin > bytes_max:
                break
            end = next_end
        yield records[begin:end]
        begin = end
    if begin < len(records):
        yield records[begin:]
