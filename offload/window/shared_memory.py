"""The window's memory: a file in shared memory that an engine's processes map.

    header 4096 bytes   _HEADER, then one byte a process (workers by rank, then the manager): 0, 1 when it has
                        attached, 2 + n when its device is at NUMA node n
    board               [n_ranks, TICKETS] uint64, up to a multiple of 4096 bytes (tickets.py)
    rows                [n_rows, row_bytes]

Whoever comes first makes the file, and who comes last takes its name away: nothing stays behind then, however
the processes end. What an engine leaves that ended before that, the next one on this host removes.

Two locks on bytes of the file keep this apart, bound to the open file and not to the process: SETUP is held
while one makes or attaches, LIFE is shared by all that use it. No LIFE: the file is nobody's.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import re
import stat
import struct
import time
from pathlib import Path

import msgspec
import numpy as np

from kvatlas.index.errors import StoreError
from kvatlas.offload.window.tickets import TICKETS, Board

PAGE_BYTES = 4096
_PREFIX = "kvatlas-window-"
_HEADER = struct.Struct("<8sIIQQ")  # magic, version, n_ranks, n_rows, row_bytes
_MAGIC = b"KVATWIN\n"
_VERSION = 1
_SETUP, _LIFE = 0, 1
_ATTACHED = 64  # offset in the header
_AT_NODE, _NODE_MAX = 2, 253
_RETRY_S = 0.005


class WindowShape(msgspec.Struct, frozen=True):
    """What all processes of an engine must agree on."""

    n_rows: int
    row_bytes: int
    n_ranks: int

    @property
    def board_bytes(self) -> int:
        return -(-self.n_ranks * TICKETS * 8 // PAGE_BYTES) * PAGE_BYTES

    @property
    def total_bytes(self) -> int:
        return PAGE_BYTES + self.board_bytes + self.n_rows * self.row_bytes


class WindowMemory:
    """One process's mapping of a window.

    rows: the bytes of all rows; board: the words of tickets.py.
    """

    def __init__(self, path: Path, descriptor: int, shape: WindowShape) -> None:
        self._path, self._descriptor, self.shape = path, descriptor, shape
        self._map = mmap.mmap(descriptor, shape.total_bytes)
        view = memoryview(self._map)
        self._attached = view[_ATTACHED : _ATTACHED + shape.n_ranks + 1]
        rows_at = PAGE_BYTES + shape.board_bytes
        self.board: Board = np.frombuffer(
            view[PAGE_BYTES : PAGE_BYTES + shape.n_ranks * TICKETS * 8], dtype=np.uint64
        ).reshape(shape.n_ranks, TICKETS)
        self.rows = view[rows_at:]

    @property
    def has_all_workers(self) -> bool:
        """Whether every rank is there: else it is on another host, or not up yet, or has lost its device."""
        return all(self._attached[:-1])

    def enter(self, rank: int | None) -> None:
        """Notes who has attached: a worker, or None for the manager. The last one takes the file's name
        away.
        """
        self._attached[self.shape.n_ranks if rank is None else rank] = 1
        if all(self._attached):
            self._path.unlink(missing_ok=True)

    def note_numa_node(self, rank: int, node: int) -> None:
        """Where a worker's device is; -1: nobody knows. REQUIRES: the rank has attached."""
        if 0 <= node <= _NODE_MAX:
            self._attached[rank] = _AT_NODE + node

    @property
    def numa_node(self) -> int:
        """The node of all workers' devices; -1: they differ, or it is not known."""
        nodes = set(self._attached[:-1])
        return max(-1, nodes.pop() - _AT_NODE) if len(nodes) == 1 else -1

    def leave(self, rank: int) -> None:
        """A worker whose device is lost: nobody knows when its last copies will end. Nothing in the window
        counts any more.
        """
        self._attached[rank] = 0

    def close(self) -> None:
        """Lets go of the mapping, as far as nobody holds a part of it, and of the file if it was the last.
        Twice is fine.
        """
        if self._descriptor < 0:
            return
        with contextlib.suppress(OSError):
            _remove_if_nobodys(self._path, self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1
        self.board = np.zeros((0, TICKETS), np.uint64)
        with contextlib.suppress(BufferError):  # somebody still has a part of it: it goes with the process
            self._attached.release()
            self.rows.release()
            self._map.close()


def attach(
    folder: str, engine: str, shape: WindowShape, *, rank: int | None, seconds: float = 120.0
) -> WindowMemory:
    """Attaches a worker (`rank`) or the manager (None) to an engine's window, making it where nobody has.

    Raises StoreError: no room in `folder`, a window of the same engine with another shape, `seconds` passed.
    """
    if shape.n_ranks + 1 > PAGE_BYTES - _ATTACHED:
        raise StoreError(
            f"window: expected at most {PAGE_BYTES - _ATTACHED - 1} workers, got {shape.n_ranks}"
        )
    _remove_leftovers(folder)
    path = Path(folder) / f"{_PREFIX}{re.sub(r'[^A-Za-z0-9._-]', '_', engine)[:200]}"
    try:
        return _attach(path, shape, rank, time.monotonic() + seconds)
    except OSError as error:
        raise StoreError(
            f"window: expected room for {shape.total_bytes} bytes in {folder}, got: {error.strerror} "
            "(the size of /dev/shm; of a container: its shared memory)"
        ) from error


def _attach(path: Path, shape: WindowShape, rank: int | None, deadline_s: float) -> WindowMemory:
    while True:
        # The folder is everybody's: who has put a link there would have us empty what it points to.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _check_owner(descriptor, path)
            _await_lock(descriptor, _SETUP, deadline_s, path)
            if not _is_named(path, descriptor):  # somebody took the name away while we waited
                os.close(descriptor)
                continue
            if _lock(descriptor, _LIFE, fcntl.F_WRLCK):
                _make(descriptor, shape)
            _lock(descriptor, _LIFE, fcntl.F_RDLCK)
            _check(descriptor, shape, path)
            memory = WindowMemory(path, descriptor, shape)
        except BaseException:
            with contextlib.suppress(OSError):
                _remove_if_nobodys(path, descriptor)
            os.close(descriptor)
            raise
        memory.enter(rank)
        _lock(descriptor, _SETUP, fcntl.F_UNLCK)
        return memory


def _make(descriptor: int, shape: WindowShape) -> None:
    os.ftruncate(descriptor, 0)
    os.posix_fallocate(descriptor, 0, shape.total_bytes)  # now, and not as a bus error later
    header = _HEADER.pack(_MAGIC, _VERSION, shape.n_ranks, shape.n_rows, shape.row_bytes)
    os.pwrite(descriptor, header, 0)


def _check(descriptor: int, shape: WindowShape, path: Path) -> None:
    expected = (_MAGIC, _VERSION, shape.n_ranks, shape.n_rows, shape.row_bytes)
    head = os.pread(descriptor, _HEADER.size, 0)
    got = _HEADER.unpack(head) if len(head) == _HEADER.size else ()
    if got != expected or os.fstat(descriptor).st_size != shape.total_bytes:
        raise StoreError(f"window: expected {expected}, got {got}, in {path}: another engine of the same id?")


def _check_owner(descriptor: int, path: Path) -> None:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        raise StoreError(f"window: expected a plain file of this user's, got another, in {path}")


def _await_lock(descriptor: int, byte: int, deadline_s: float, path: Path) -> None:
    while not _lock(descriptor, byte, fcntl.F_WRLCK):
        if time.monotonic() > deadline_s:
            raise StoreError(f"window: expected that {path} is made in time, got: somebody is still at it")
        time.sleep(_RETRY_S)


def _lock(descriptor: int, byte: int, kind: int) -> bool:
    """Takes, changes (at once, without a moment between) or lets go of a lock; False where others have one
    against it.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, byte, 1, 0))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def _is_named(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove_if_nobodys(path: Path, descriptor: int) -> None:
    """REQUIRES: SETUP is ours, or will be free soon: a name that is taken away twice is none of the
    second's business.
    """
    if (
        _lock(descriptor, _SETUP, fcntl.F_WRLCK)
        and _lock(descriptor, _LIFE, fcntl.F_WRLCK)
        and _is_named(path, descriptor)
    ):
        path.unlink(missing_ok=True)


def _remove_leftovers(folder: str) -> None:
    """Takes away windows that no process has: of engines that ended before all of their processes were up."""
    for path in Path(folder).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                if os.fstat(descriptor).st_size:  # an empty one is just being made
                    _remove_if_nobodys(path, descriptor)
            finally:
                os.close(descriptor)
