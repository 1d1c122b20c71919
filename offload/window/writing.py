"""Chunks on their way from the window into a store, in the background."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from kvatlas.offload._native import Slots
from kvatlas.offload.storing.storage import Done, Storage


class Writing:
    """Has READY chunks written, and keeps them in the window for as long; one thread.

    How much may wait is the store's business: its write budget ends at once what is too much.
    """

    def __init__(self, slots: Slots, storage: Storage, numbers: Iterator[int]) -> None:
        self._slots, self._storage, self._numbers = slots, storage, numbers
        self._jobs: dict[int, bytes] = {}
        self.n_writing = 0
        """Chunks under way, each pinned once."""
        self.written = 0
        """Chunks that the store has."""

    def start(self, keys: Sequence[bytes], rows: npt.NDArray[np.int32]) -> None:
        """REQUIRES: the keys are READY in these rows."""
        packed = b"".join(keys)
        self._slots.pin(packed)
        job = next(self._numbers)
        self._jobs[job] = packed
        self.n_writing += len(keys)
        self._storage.store(job, list(keys), rows)

    def ended(self, done: Done) -> None:
        self._slots.unpin(self._jobs.pop(done.job))
        self.n_writing -= len(done.ok) + len(done.failed)
        self.written += len(done.ok)
