"""Chunks as objects of an S3-compatible store: one request a chunk, by threads of its own."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from kvatlas.index.errors import StoreError, quoted
from kvatlas.offload._native import HEAD_BYTES, chunk_name
from kvatlas.offload.backends.backend import Backend, Finished, Outcome, Rows
from kvatlas.offload.backends.objects_capacity import ObjectsCapacity
from kvatlas.offload.backends.objects_chunk import ChunkForm, key_of_path
from kvatlas.offload.backends.objects_client import ObjectClient, ObjectError
from kvatlas.offload.backends.objects_jobs import Job, JobKind, Jobs

_log = logging.getLogger(__name__)

_Tasks: TypeAlias = "queue.SimpleQueue[tuple[Job, int] | None]"  # a job, and which of its keys


class ObjectsBackend(Backend):
    """The objects of one part of a space; see `Backend` for who may call what.

    Loads and probes have threads of their own, so writes never delay them. What a load brings is verified in
    the client's memory before it is copied into its row; a row is copied, with its checksum, before it is
    sent. So a request that goes on after its time limit sends what it was to send, and writes nothing.
    """

    def __init__(
        self,
        client: ObjectClient,
        form: ChunkForm,
        folder: str,
        memory: Any,
        *,
        capacity: ObjectsCapacity,
        readers: int,
        writers: int,
        staging_bytes: int,
        queued_max: int,
        time_limit_s: float,
    ) -> None:
        """`folder`: <space>/<part>, below the client's root. `memory`: writable, rows of form.row_bytes.

        `staging_bytes`: where chunks are large, half bounds readers, half writers; one of each always runs.
        """
        self._client, self._form, self._folder, self._capacity = client, form, folder, capacity
        rows = np.frombuffer(memory, np.uint8)
        self._rows: npt.NDArray[np.uint8] | None = rows.reshape(-1, form.row_bytes)
        self._jobs = Jobs(time_limit_s)
        self._queued_max = queued_max
        self._reads: _Tasks = queue.SimpleQueue()
        self._writes: _Tasks = queue.SimpleQueue()
        most = max(1, staging_bytes // 2 // form.object_bytes)
        self._readers, self._writers = min(readers, most), min(writers, most)
        self._buffers: deque[npt.NDArray[np.uint8]] = deque()  # as many as there are writers
        self._reserved: dict[int, int] = {}  # store jobs under way -> chunks that room is reserved for
        self._counts_lock = threading.Lock()
        self._counts: dict[str, int] = dict.fromkeys(
            ("refused_jobs", "corrupt_objects", "corrupt_not_removed", "read_again"), 0
        )
        self._threads = [
            threading.Thread(target=self._run, args=(tasks,), name=f"kvatlas-objects-{number}", daemon=True)
            for number, tasks in enumerate([self._reads] * self._readers + [self._writes] * self._writers)
        ]
        for thread in self._threads:
            thread.start()

    def submit_store(self, job: int, keys: Sequence[bytes], rows: Rows) -> bool:
        if self._submit(self._writes, job, JobKind.STORE, keys, rows):
            self._reserved[job] = len(keys)
            return True
        self._capacity.not_stored(len(keys))
        return False

    def submit_load(self, job: int, keys: Sequence[bytes], rows: Rows) -> bool:
        return self._submit(self._reads, job, JobKind.LOAD, keys, rows)

    def submit_probe(self, job: int, keys: Sequence[bytes]) -> bool:
        return self._submit(self._reads, job, JobKind.PROBE, keys, None)

    def finished(self) -> Sequence[Finished]:
        ended = self._jobs.finished()
        for job in ended:
            reserved = self._reserved.pop(job.job, 0)
            if reserved:
                written = job.outcomes.count(Outcome.OK)
                self._capacity.stored(written)
                self._capacity.not_stored(reserved - written)
        return ended

    def may_store(self, n_chunks: int) -> bool:
        return self._capacity.may_store(n_chunks)

    def take_removed(self) -> Sequence[bytes]:
        return self._capacity.take_removed()

    def is_there(self, key: bytes) -> bool:
        return self._client.read_begin(self._path(key), 1) is not None

    def inventory(self) -> Iterator[Sequence[bytes]]:
        for batch in self._client.listing(self._folder):
            found = (key_of_path(one.path) for one in batch if one.size_bytes == self._form.object_bytes)
            keys = [key for key in found if key is not None]
            if keys:
                yield keys

    def drain(self, seconds: float) -> bool:
        return self._jobs.drain(seconds)

    def close(self, seconds: float) -> None:
        if self._rows is None:
            return
        until_s = time.monotonic() + seconds
        self._jobs.drain(0.0)
        self._rows = None  # no claim succeeds any more: nobody looks
        for tasks, n_threads in ((self._reads, self._readers), (self._writes, self._writers)):
            for _ in range(n_threads):
                tasks.put(None)
        self._capacity.close(seconds)
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))

    def statistics(self) -> Mapping[str, float]:
        keys = {f"keys_{outcome.name.lower()}": float(n) for outcome, n in self._jobs.outcomes.items()}
        return {
            **keys,
            **self._counts,
            **self._capacity.statistics(),
            "queued_reads": float(self._reads.qsize()),
            "queued_writes": float(self._writes.qsize()),
            "queued_max": float(self._queued_max),
            "open_jobs": float(self._jobs.open_jobs),
            "readers": float(self._readers),
            "writers": float(self._writers),
        }

    def _submit(
        self, tasks: _Tasks, number: int, kind: JobKind, keys: Sequence[bytes], rows: Rows | None
    ) -> bool:
        if self._rows is None or tasks.qsize() + len(keys) > self._queued_max:
            self._count("refused_jobs")
            return False
        job = self._jobs.begin(number, kind, keys, rows)
        for index in range(len(keys)):
            tasks.put((job, index))
        return True

    def _run(self, tasks: _Tasks) -> None:
        while (task := tasks.get()) is not None:
            job, index = task
            if not self._jobs.is_wanted(job):
                continue
            try:
                outcome = self._do(job, job.keys[index], index)
                is_moved = outcome is Outcome.OK and job.kind is not JobKind.PROBE
                self._jobs.end_key(job, index, outcome, self._form.row_bytes if is_moved else 0)
            except ObjectError as error:
                self._jobs.end_key(job, index, error.outcome, error=str(error))
            except Exception as error:  # of one chunk; the thread goes on with others
                self._jobs.end_key(job, index, Outcome.FAILED, error=quoted(error))

    def _do(self, job: Job, key: bytes, index: int) -> Outcome:
        if job.kind is JobKind.STORE:
            return self._store(job, key, index)
        if job.kind is JobKind.LOAD:
            return self._load(job, key, index)
        begin = self._client.read_begin(self._path(key), HEAD_BYTES)
        if begin is None:
            return Outcome.ABSENT
        try:
            self._form.check_head(key, *begin)
        except StoreError as error:
            raise self._corrupt(key, error) from None
        return Outcome.OK

    def _store(self, job: Job, key: bytes, index: int) -> Outcome:
        try:
            content = self._buffers.pop()
        except IndexError:  # all are in use
            content = np.zeros(self._form.object_bytes, np.uint8)
        if not self._with_row(job, index, lambda row: self._form.encode(key, row, content)):
            return Outcome.CANCELLED
        # Of a request that failed the client may still be sending: that memory is not used again.
        is_new = self._client.write_new(self._path(key), content.data)
        self._buffers.append(content)
        return Outcome.OK if is_new else Outcome.PRESENT

    def _load(self, job: Job, key: bytes, index: int) -> Outcome:
        payload = self._read(key)
        if payload is None:
            return Outcome.ABSENT
        is_copied = self._with_row(job, index, lambda row: np.copyto(row, np.frombuffer(payload, np.uint8)))
        return Outcome.OK if is_copied else Outcome.CANCELLED

    def _read(self, key: bytes) -> memoryview | None:
        for is_again in (False, True):
            found = self._client.read(self._path(key), self._form.object_bytes)
            if found is None:
                return None
            try:
                return self._form.payload(key, *found)
            except StoreError as error:  # at first it may be the way that is broken, not the object
                if is_again:
                    raise self._corrupt(key, error) from None
                self._count("read_again")
        return None

    def _with_row(self, job: Job, index: int, do: Callable[[npt.NDArray[np.uint8]], None]) -> bool:
        # The row is named nowhere else: once this returns, the memory can be released.
        if not self._jobs.claim(job):
            return False
        try:
            assert self._rows is not None and job.rows is not None
            do(self._rows[job.rows[index]])
            return True
        finally:
            self._jobs.release(job)

    def _corrupt(self, key: bytes, error: StoreError) -> ObjectError:
        path = self._path(key)
        self._count("corrupt_objects")
        _log.warning("%s/%s: %s; it is removed", self._client.url, path, error)
        try:
            self._client.remove([path])  # so that it is written anew
        except ObjectError:
            self._count("corrupt_not_removed")
        return ObjectError(Outcome.CORRUPT, f"{path}: {error}")

    def _path(self, key: bytes) -> str:
        return f"{self._folder}/{chunk_name(key)}"

    def _count(self, name: str) -> None:
        with self._counts_lock:
            self._counts[name] += 1
