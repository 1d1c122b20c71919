"""An engine over rows of this process, and what tests ask of it."""

from __future__ import annotations

import mmap
import os
import select
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kvatlas.offload import _native

ROW_BYTES = 32768
FINGERPRINT, WRITER = b"fingerprint of 1", b"writer number 01"
KEY_BYTES = 36
PATIENCE_S = 60.0

WAYS = {
    "ring": {"uring": True, "direct": True},
    "ring, page cache": {"uring": True, "direct": False},
    "threads": {"uring": False, "direct": True},
    "threads, page cache": {"uring": False, "direct": False},
}
OUTCOMES = ["OK", "PRESENT", "ABSENT", "CORRUPT", "FAILED", "NO_SPACE", "READ_ONLY", "TIMED_OUT", "CANCELLED"]


def key_of(number: int) -> bytes:
    return sha256(number.to_bytes(8, "big")).digest() + bytes(4)


def until(holds: Callable[[], bool]) -> None:
    """Waits for a condition that no descriptor tells of."""
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end
        os.sched_yield()


def content_of(key: bytes, row_bytes: int = ROW_BYTES) -> NDArray[np.uint8]:
    """What belongs under a key: different for each, the same for all that store it."""
    seed = int.from_bytes(key[:8], "big")
    return np.random.default_rng(seed).integers(0, 256, row_bytes, dtype=np.uint8)


class Rig:
    """An engine, its rows [n_rows, row_bytes], and answers by name."""

    def __init__(
        self, folder: Path, *, n_rows: int = 16, row_bytes: int = ROW_BYTES, **options: object
    ) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.memory = mmap.mmap(-1, n_rows * row_bytes)
        self.rows = np.frombuffer(self.memory, dtype=np.uint8).reshape(n_rows, row_bytes)
        settings = {
            "writer": WRITER,
            "key_bytes": KEY_BYTES,
            "readers": 2,
            "writers": 2,
            "ring_depth": 2,
            **options,
        }
        self.engine = _native.Engine(self.memory, row_bytes, str(folder), FINGERPRINT, **settings)  # type: ignore[arg-type]
        self._next = 1000

    def path(self, key: bytes) -> Path:
        return self.folder / _native.chunk_name(key)

    def job(self) -> int:
        self._next += 1
        return self._next

    def submit(self, kind: str, keys: Sequence[bytes], rows: Sequence[int] = ()) -> int:
        """The job's number; there is room."""
        job = self.job()
        submit = getattr(self.engine, f"submit_{kind}")
        packed = b"".join(keys)
        assert (
            submit(job, packed, np.array(rows, dtype=np.int32))
            if kind in ("store", "load")
            else submit(job, packed)
        )
        return job

    def collect(self, n_jobs: int = 1) -> dict[int, _native.FinishedJob]:
        """So many jobs, waited for by the event descriptor."""
        done: dict[int, _native.FinishedJob] = {}
        while len(done) < n_jobs:
            readable, _, _ = select.select([self.engine.event_fd], [], [], PATIENCE_S)
            assert readable, f"{len(done)} of {n_jobs} jobs have ended"
            done |= {finished.job: finished for finished in self.engine.finished()}
        return done

    def outcomes(self, kind: str, keys: Sequence[bytes], rows: Sequence[int] = ()) -> list[str]:
        job = self.submit(kind, keys, rows)
        return names(self.collect()[job])

    def store(self, *keys: bytes, row: int = 0) -> None:
        """Each key's own content, by way of one row."""
        for key in keys:
            self.rows[row] = content_of(key, self.rows.shape[1])
            assert self.outcomes("store", [key], [row]) == ["OK"]

    def load(self, key: bytes, row: int = 1) -> str:
        """The outcome. OK: and the content was right."""
        self.rows[row] = 0
        (outcome,) = self.outcomes("load", [key], [row])
        if outcome == "OK":
            assert (self.rows[row] == content_of(key, self.rows.shape[1])).all()
        return outcome

    def files(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if not path.is_dir()}

    def close(self, seconds: float = PATIENCE_S) -> bool:
        ended = self.engine.close(seconds)
        del self.rows
        self.memory.close()  # fails while anything holds it
        return ended


def names(finished: _native.FinishedJob) -> list[str]:
    return [OUTCOMES[outcome] for outcome in finished.outcomes]


@contextmanager
def rig_at(folder: Path, **options: object) -> Iterator[Rig]:
    """Closed at the end, with no thread left and no temporary file."""
    rig = Rig(folder, **options)  # type: ignore[arg-type]
    try:
        yield rig
    finally:
        ended = rig.close()
    assert ended
    assert not [name for name in rig.files() if name.endswith(".tmp")]
