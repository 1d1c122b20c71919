"""All of an atlas in a folder: a file for each worker and store, written while batches go on coming."""

from __future__ import annotations

import functools
import hashlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from kvatlas.index._native import Keyspace
from kvatlas.index.errors import CheckpointError, KvatlasError
from kvatlas.ingest._native import Snapshot
from kvatlas.ingest.checkpoint import (
    CheckpointHead,
    GroupMark,
    KeyspaceMark,
    StoreIdentity,
    StreamPosition,
    WorkerIdentity,
    read_checkpoint,
    read_head,
    write_checkpoint,
)
from kvatlas.ingest.feed import Feed
from kvatlas.ingest.fleet_stores import ModelState
from kvatlas.ingest.intake import Intake
from kvatlas.ingest.worker_state import GroupState, StoreState, WorkerState

_SUFFIX = ".kvatlas"
_log = logging.getLogger(__name__)


class CheckpointReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was written or read."""

    files: int
    """Those that are whole."""
    bytes: int
    """Of these."""
    errors: tuple[str, ...]
    """What was wrong with the others; their workers start anew."""


class _Beside(msgspec.Struct, frozen=True):
    """What a worker's file says beside its content."""

    doubts: dict[str, str]
    stores: tuple[str, ...]


class Checkpoints:
    """Saves and loads the workers and stores of one atlas. One call at a time."""

    def __init__(self, intake: Intake, restored: Feed) -> None:
        """`restored`: speaks for the workers loaded, until somebody else does."""
        self._intake = intake
        self._fleet = intake.fleet
        self._restored = restored

    # Saving.

    def save(self, folder: Path) -> CheckpointReport:
        """Write all that is held; files of what is held no more are removed.

        The write path waits only while a snapshot begins, well below a millisecond, and for one part
        of it at a time. Raises CheckpointError when the folder cannot be made.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"{folder}: expected a folder to write to, got {error}") from error
        with self._intake.lock:
            models = [state for state in self._fleet.models.values() if state.keyspace is not None]
            workers = [w for state in models for w in state.workers.values() if w.mirror is not None]
            stores = [(state, store) for state in models for store in state.stores.values()]
        saves = [functools.partial(self._save_worker, folder, worker) for worker in workers]
        saves += [functools.partial(self._save_store, folder, *store) for store in stores]
        written: dict[Path, int] = {}
        errors = []
        for save in saves:
            try:
                path, n_bytes = save()
                written[path] = n_bytes
            except KvatlasError as error:
                errors.append(str(error))
        if not errors:
            for path in set(folder.glob(f"*{_SUFFIX}")) - written.keys():
                path.unlink(missing_ok=True)
        return CheckpointReport(files=len(written), bytes=sum(written.values()), errors=tuple(errors))

    def _save_worker(self, folder: Path, worker: WorkerState) -> tuple[Path, int]:
        with self._intake.lock:
            state = self._fleet.models[worker.model]
            mirror, space = worker.mirror, state.keyspace
            assert mirror is not None and space is not None
            head = self._head_of(worker, self._mark(space, state.block_size))
            snapshot = mirror.begin_snapshot()
        path = folder / _file_name("worker", worker.model, worker.pod, str(worker.rank))
        return path, write_checkpoint(path, head, _parts(snapshot))

    def _head_of(self, worker: WorkerState, mark: KeyspaceMark) -> CheckpointHead:
        position = worker.stream.position
        beside = _Beside(worker.truth.lasting(), tuple(sorted(worker.stores)))
        return CheckpointHead(
            identity=WorkerIdentity(worker.model, worker.pod, worker.rank, mark),
            time_s=time.time(),
            groups=tuple(
                GroupMark(number, group.kind, group.window_tokens, group.block_size_tokens)
                for number, group in sorted(worker.groups.items())
                if not worker.unseen_groups >> number & 1
            ),
            position=StreamPosition(*position) if position is not None else None,
            truth=msgspec.msgpack.encode(beside),
        )

    def _save_store(self, folder: Path, state: ModelState, store: StoreState) -> tuple[Path, int]:
        assert state.keyspace is not None
        identity = StoreIdentity(state.name, store.name, self._mark(state.keyspace, state.block_size))
        path = folder / _file_name("store", state.name, store.name)
        head = CheckpointHead(identity, time.time())
        return path, write_checkpoint(path, head, [store.native.save(state.block_size)])

    # Loading.

    def load(self, folder: Path) -> CheckpointReport:
        """Read all files of a folder into an atlas that has not heard of their workers yet.

        A file that is torn, foreign, of another version, seed or worker is left out, said in the
        report and logged: its worker starts anew. Workers loaded are in doubt until their replay
        socket has confirmed them. Stores come first, for the mirrors refer to them.
        """
        errors, n_files, n_bytes = [], 0, 0
        paths = sorted(
            folder.glob(f"*{_SUFFIX}"), key=lambda path: (path.name.startswith("worker"), path.name)
        )
        for path in paths:
            try:
                self._load(path)
            except (KvatlasError, msgspec.MsgspecError) as error:
                _log.warning("checkpoint left out: %s", error)
                errors.append(str(error))
                continue
            n_files += 1
            n_bytes += path.stat().st_size
        return CheckpointReport(files=n_files, bytes=n_bytes, errors=tuple(errors))

    def _load(self, path: Path) -> None:
        got = read_head(path).identity
        with self._intake.lock:
            space = self._fleet.keyspace_for(got.model, got.keyspace.block_size_tokens)
        mark = self._mark(space, got.keyspace.block_size_tokens)
        parts_of_name = (
            ("worker", got.model, got.pod, str(got.rank))
            if isinstance(got, WorkerIdentity)
            else ("store", got.model, got.name)
        )
        if path.name != _file_name(*parts_of_name):
            raise CheckpointError(
                f"{path}: expected the file of another {parts_of_name[0]}, got that of {got!r}"
            )
        expected = msgspec.structs.replace(got, keyspace=mark)
        checkpoint = read_checkpoint(path, expected)
        with self._intake.lock:
            if isinstance(got, WorkerIdentity):
                self._load_worker(path, got, checkpoint.head, checkpoint.parts)
            else:
                self._fleet.load_store(got.model, got.name, checkpoint.parts)

    def _load_worker(
        self, path: Path, identity: WorkerIdentity, head: CheckpointHead, parts: list[bytes]
    ) -> None:
        beside = msgspec.msgpack.decode(head.truth, type=_Beside)
        if self._fleet.find(identity.model, identity.pod, identity.rank) is not None:
            raise CheckpointError(f"{path}: expected a worker that is not known yet, got {identity.pod!r}")
        groups = {
            mark.group: GroupState(-1, mark.kind, mark.window_tokens, mark.block_size_tokens)
            for mark in head.groups
        }
        worker = self._intake.worker(self._restored, identity.pod, identity.model, identity.rank)
        try:
            self._fleet.restore(worker, groups, beside.stores, parts)
        except KvatlasError:
            self._fleet.remove(worker)
            raise
        now_s = self._intake.clock_s()
        worker.truth.restore(beside.doubts, now_s)
        if head.position is not None:
            worker.stream.resume(head.position.sequence, head.position.payload_checksum, now_s)
        worker.observe()

    def _mark(self, space: Keyspace, block_size: int) -> KeyspaceMark:
        return KeyspaceMark.of(space, self._fleet.algorithm, block_size)


def _parts(snapshot: Snapshot) -> Iterator[bytes]:
    while (part := snapshot.part()) is not None:
        yield part


def _file_name(kind: str, *names: str) -> str:
    told = "\0".join(names).encode("utf-8", "surrogateescape")
    return f"{kind}-{hashlib.blake2b(told, digest_size=16).hexdigest()}{_SUFFIX}"
