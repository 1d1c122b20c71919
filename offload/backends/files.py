"""Chunks as files: the native engine moves their bytes, the store's capacity says how many there may be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from kvatlas.offload._native import Engine, FinishedJob, chunk_name, file_bytes
from kvatlas.offload.backends.backend import Backend, Finished, Outcome, Rows, packed
from kvatlas.offload.capacity.capacity import Capacity
from kvatlas.offload.layout.space import Space
from kvatlas.offload.layout.walking import Walk

_WALK_FILES = 1024  # a batch of the inventory

_ENGINE_FIGURES = (
    "queued_reads",
    "queued_writes",
    "hung",
    "threads",
    "staging_bytes",
    "staging_free_bytes",
    "staging_waits",
    "is_direct",
    "is_uring",
    "is_pinned",
    "refused_chunks",
    "removed_corrupt",
    "temporary_left",
)


class FilesBackend(Backend):
    """The files of one part of a space; see `Backend` for who may call what."""

    def __init__(self, engine: Engine, capacity: Capacity, space: Space, row_bytes: int) -> None:
        """Takes the engine and the capacity over: `close` ends them. Both are of this space's part."""
        self._engine: Engine | None = engine
        self._capacity, self._space = capacity, space
        self._file_bytes = file_bytes(row_bytes)
        self._reserved: dict[int, int] = {}
        """Store jobs under way -> chunks that room is reserved for."""

    def submit_store(self, job: int, keys: Sequence[bytes], rows: Rows) -> bool:
        if self._engine is not None and self._engine.submit_store(job, b"".join(keys), rows):
            self._reserved[job] = len(keys)
            return True
        self._capacity.not_stored(len(keys) * self._file_bytes)
        return False

    def submit_load(self, job: int, keys: Sequence[bytes], rows: Rows) -> bool:
        return self._engine is not None and self._engine.submit_load(job, b"".join(keys), rows)

    def submit_probe(self, job: int, keys: Sequence[bytes]) -> bool:
        return self._engine is not None and self._engine.submit_probe(job, packed(keys))

    def finished(self) -> Sequence[Finished]:
        return [self._end(ended) for ended in self._engine.finished()] if self._engine is not None else ()

    def _end(self, ended: FinishedJob) -> Finished:
        outcomes = ended.outcomes
        reserved = self._reserved.pop(ended.job, 0)
        if reserved:
            written = outcomes.count(Outcome.OK)
            self._capacity.stored(written * self._file_bytes, written)
            self._capacity.not_stored((reserved - written) * self._file_bytes)
        return Finished(ended.job, outcomes, ended.n_bytes, ended.seconds, ended.error)

    def may_store(self, n_chunks: int) -> bool:
        return self._capacity.may_store(n_chunks * self._file_bytes)

    def touched(self, keys: Sequence[bytes]) -> None:
        self._capacity.touched(keys)

    def take_removed(self) -> Sequence[bytes]:
        return self._capacity.take_removed()

    def is_there(self, key: bytes) -> bool:
        return (self._space.part_folder / chunk_name(key)).exists()

    def inventory(self) -> Iterator[Sequence[bytes]]:
        size = self._space.fields.key_bytes
        for batch in Walk(self._space.part_folder, size, batch_files=_WALK_FILES):
            whole = np.flatnonzero(batch.sizes == self._file_bytes).tolist()
            yield [batch.keys[at * size : (at + 1) * size] for at in whole]

    def drain(self, seconds: float) -> bool:
        if self._engine is None or self._engine.drain(seconds):
            return True
        self._engine.give_up()
        return False

    def close(self, seconds: float) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close(seconds)
            self._capacity.close()

    def statistics(self) -> Mapping[str, float]:
        capacity = self._capacity.statistics()
        figures = {
            "used_bytes": float(capacity.used_bytes),
            "size_bytes": float(capacity.size_bytes),
            "writers": float(capacity.writers),
            "touches_dropped": float(capacity.touches_dropped),
            "removals_dropped": float(capacity.removals_dropped),
            "capacity_failures": float(capacity.failures),
        }
        if self._engine is not None:
            engine = self._engine.statistics()
            for name in _ENGINE_FIGURES:
                figures[name] = float(getattr(engine, name))
        return figures
