"""A store in a dictionary whose jobs end when the test says so, and fail where it says so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from kvatlas.offload.backends.backend import Backend, Finished, Outcome, Rows

ROW_BYTES = 64
KEY_BYTES = 36


def key_of(number: int) -> bytes:
    return number.to_bytes(32, "big") + bytes(4)


class ScriptedBackend(Backend):
    """Jobs wait in `waiting` until `run`; `outcomes` says what befalls a key; `files` has what was stored."""

    def __init__(self, n_rows: int = 64) -> None:
        self.memory: npt.NDArray[np.uint8] = np.zeros((n_rows, ROW_BYTES), np.uint8)
        self.files: dict[bytes, bytes] = {}
        self.outcomes: dict[bytes, Outcome] = {}
        self.fails_with: Outcome | None = None
        """What becomes of every key."""
        self.is_full = False
        self.takes_jobs = True
        self.waiting: list[tuple[str, int, list[bytes], list[int]]] = []
        self.ended: list[Finished] = []
        self.removed: list[bytes] = []
        self.touches: list[bytes] = []
        self.probed: list[list[bytes]] = []
        self.there_at_start: list[list[bytes]] = []
        self.is_closed = False

    def submit_store(self, job: int, keys: Sequence[bytes], rows: Rows) -> bool:
        return self._take("store", job, keys, rows.tolist())

    def submit_load(self, job: int, keys: Sequence[bytes], rows: Rows) -> bool:
        return self._take("load", job, keys, rows.tolist())

    def submit_probe(self, job: int, keys: Sequence[bytes]) -> bool:
        self.probed.append(list(keys))
        return self._take("probe", job, keys, [])

    def finished(self) -> Sequence[Finished]:
        ended, self.ended = self.ended, []
        return ended

    def drain(self, seconds: float) -> bool:
        is_clean = not self.waiting
        for _, job, keys, _ in self.waiting:
            self.ended.append(Finished(job, bytes([Outcome.CANCELLED] * len(keys))))
        self.waiting.clear()
        return is_clean

    def close(self, seconds: float) -> None:
        self.is_closed = True

    def statistics(self) -> Mapping[str, float]:
        return {"used_bytes": float(len(self.files) * ROW_BYTES)}

    def may_store(self, n_chunks: int) -> bool:
        return not self.is_full

    def touched(self, keys: Sequence[bytes]) -> None:
        self.touches.extend(keys)

    def take_removed(self) -> Sequence[bytes]:
        removed, self.removed = self.removed, []
        return removed

    def inventory(self) -> Iterator[Sequence[bytes]]:
        yield from self.there_at_start

    def evict(self, key: bytes) -> None:
        del self.files[key]
        self.removed.append(key)

    def run(self, most: int | None = None) -> None:
        """Ends the jobs that wait, the oldest first."""
        jobs, self.waiting = self.waiting[:most], self.waiting[len(self.waiting[:most]) :]
        for kind, job, keys, rows in jobs:
            outcomes = [self._do(kind, key, rows[at] if rows else -1) for at, key in enumerate(keys)]
            moved = outcomes.count(Outcome.OK) * ROW_BYTES if rows else 0
            bad = [one for one in outcomes if one > Outcome.CORRUPT]
            self.ended.append(Finished(job, bytes(outcomes), moved, 0.001, bad[0].name if bad else ""))

    def _take(self, kind: str, job: int, keys: Sequence[bytes], rows: list[int]) -> bool:
        if self.takes_jobs:
            self.waiting.append((kind, job, list(keys), rows))
        return self.takes_jobs

    def _do(self, kind: str, key: bytes, row: int) -> Outcome:
        outcome = self.fails_with or self.outcomes.get(key)
        if outcome is not None:
            return outcome
        if kind == "store":
            if key in self.files:
                return Outcome.PRESENT
            self.files[key] = self.memory[row].tobytes()
            return Outcome.OK
        if key not in self.files:
            return Outcome.ABSENT
        if kind == "load":
            self.memory[row] = np.frombuffer(self.files[key], np.uint8)
        return Outcome.OK
