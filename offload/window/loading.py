"""Chunks on their way from a store into the window, because a request has asked for them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from kvatlas.offload._native import Slots
from kvatlas.offload.storing.storage import Done, Storage
from kvatlas.offload.window.transfers import split

_CHUNKS_PER_JOB_MAX = 64


class Loading:
    """Takes slots for wanted chunks and has them read; one thread.

    A slot that is being filled from a store becomes READY when its bytes have been verified, and is free
    again where they could not be had.
    """

    def __init__(self, slots: Slots, storage: Storage, numbers: Iterator[int], chunks_max: int) -> None:
        self._slots, self._storage, self._numbers = slots, storage, numbers
        self._chunks_max = chunks_max
        self._wanted: dict[bytes, str] = {}
        self._jobs: dict[int, dict[bytes, int]] = {}
        self.n_loading = 0
        """Chunks under way."""
        self.loaded = 0
        self.failed = 0
        self.postponed = 0
        """Times that a wanted chunk found no room, and was left to be asked for again."""

    def want(self, key: bytes, request: str) -> None:
        """The store has it, and a request waits for it."""
        self._wanted.setdefault(key, request)

    def start(self) -> list[bytes]:
        """Starts loading what is wanted, as far as there is room; those who asked first come first.

        Returns what had to leave the window.
        """
        wanted, self._wanted = self._wanted, {}
        keys = list(itertools.islice(wanted, min(self._chunks_max - self.n_loading, self._room())))
        self.postponed += len(wanted) - len(keys)
        evicted: list[bytes] = []
        for _, of_request in itertools.groupby(keys, wanted.__getitem__):
            of_one = list(of_request)
            for first in range(0, len(of_one), _CHUNKS_PER_JOB_MAX):
                evicted += self._load(of_one[first : first + _CHUNKS_PER_JOB_MAX])
        return evicted

    def _room(self) -> int:
        slots = self._slots.statistics()
        return int(slots.free + slots.ready - slots.pinned)

    def _load(self, keys: Sequence[bytes]) -> list[bytes]:
        taken = self._slots.fill(b"".join(keys))
        if taken is None:  # some of the room was that of chunks which are wanted themselves
            self.postponed += len(keys)
            return []
        rows, evicted = taken
        row_of = {key: row for key, row in zip(keys, rows.tolist(), strict=True) if row >= 0}
        if row_of:
            job = next(self._numbers)
            self._jobs[job] = row_of
            self.n_loading += len(row_of)
            self._storage.load(job, list(row_of), as_rows(row_of.values()))
        return split(evicted, len(keys[0]))

    def ended(self, done: Done) -> list[bytes]:
        """Takes in the end of a job; returns what lies in the window now."""
        row_of = self._jobs.pop(done.job)
        self.n_loading -= len(row_of)
        self.loaded += len(done.ok)
        self.failed += len(done.failed)
        if done.failed:
            self._slots.drop(as_rows(row_of[key] for key in done.failed))
        self._slots.ready(as_rows(row_of[key] for key in done.ok))
        return list(done.ok)


def as_rows(numbers: Iterable[int]) -> npt.NDArray[np.int32]:
    """Row numbers as the native code takes them [n]."""
    return np.fromiter(numbers, np.int32)
