"""A store's capacity as one of its writers sees it: answers from memory, files by threads of its own."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from kvatlas.index.errors import StoreError, quoted
from kvatlas.offload._native import chunk_name
from kvatlas.offload.capacity.claims import Claims
from kvatlas.offload.capacity.keeper import LedgerKeeper
from kvatlas.offload.capacity.limits import CapacityLimits
from kvatlas.offload.capacity.notices import RemovalNotices
from kvatlas.offload.capacity.touches import Touches
from kvatlas.offload.evicting.evictor import Evictor, EvictorStatistics

_REMOVED_MAX = 1_000_000
_RETRY_S_MAX = 30.0
_SOON_S = 0.02
"""Between two looks at the ledger, where stores are waiting for room."""
_CLOSE_S = 2.0
_CANDIDATES_MAX = 32_768
"""Less than the service's: this is memory of an engine."""

_log = logging.getLogger(__name__)


class CapacityStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """How one process sees the capacity of its store."""

    is_open: bool
    """Stores may be written now, as far as capacity goes."""
    why: str
    """Not, where they may not."""
    used_bytes: int
    """By the ledger: of all writers."""
    size_bytes: int
    """What the store may hold now: the cap, or less for the free-space floor."""
    written_bytes: int
    """By this process."""
    granted_bytes: int
    """That it may still write without asking."""
    refused: int
    """Stores that found no room."""
    refused_bytes: int
    writers: int
    """That have an entry in the ledger."""
    touched: int
    touches_dropped: int
    """Notes of use that found too many others waiting."""
    gone: int
    """Files that a note of use did not find any more."""
    removals_dropped: int
    """Evicted keys that nobody fetched in time."""
    failures: int
    """Of file system calls of the threads; they go on."""
    evictor: EvictorStatistics | None
    """None: this process never evicts."""


class Capacity:
    """Cap, free-space floor, notes of use and eviction of one store. Any thread; but `close`, no call waits.

    Where no limit is given everything may be stored, and the ledger is kept for those who have one.
    """

    def __init__(self, root: Path, limits: CapacityLimits, *, writer: bytes, folder: Path) -> None:
        """`folder`: `<root>/<space>/<part>`, where this process reads and writes. `writer`: 16 bytes."""
        self._limits = limits
        self._folder = folder
        self._space = folder.parent.name
        self._claims = Claims(limits.dead_s / 2)
        self._touches = Touches(limits.touch_s)
        self._notices = RemovalNotices(root)
        self._keeper = LedgerKeeper(root, limits, self._claims, writer, self._space)
        self._evictor: Evictor | None = None
        if limits.evicts and limits.is_bounded:
            self._evictor = Evictor(root, limits, self._removed_by_evictor, candidates_max=_CANDIDATES_MAX)
        self._removed: deque[bytes] = deque(maxlen=_REMOVED_MAX)
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._failure = ""
        self._wake, self._evict, self._closing = threading.Event(), threading.Event(), threading.Event()
        self._threads = [self._started(self._keep, "keep")]
        if self._evictor is not None:
            self._threads.append(self._started(self._evict_steps, "evict"))

    def may_store(self, n_bytes: int) -> bool:
        """Whether so many bytes may be written; then they are reserved, until `stored` or `not_stored`."""
        if not self._limits.is_bounded:
            return True
        may = self._claims.reserve(n_bytes)
        if not may:
            self._wake.set()
        return may

    def stored(self, n_bytes: int, n_files: int = 1) -> None:
        """Files that `may_store` has let through are there now."""
        self._claims.stored(n_bytes, n_files)

    def not_stored(self, n_bytes: int) -> None:
        """What `may_store` has let through is not there: it failed, or was there before."""
        self._claims.not_stored(n_bytes)

    def touched(self, keys: Sequence[bytes]) -> None:
        """These are in use: nobody deletes them for `lease_s`, once their dates are renewed in a moment."""
        self._touches.add(keys)

    def take_removed(self) -> list[bytes]:
        """Keys of this space that were evicted, or found gone, since the last call: to be announced.

        Evicted by this process, or by another that left a notice and is not of this space.
        """
        with self._lock:
            taken = list(self._removed)
            self._removed.clear()
            return taken

    def statistics(self) -> CapacityStatistics:
        keeper, totals = self._keeper.state(), self._claims.totals()
        with self._lock:
            counts = self._counts.copy()
        return CapacityStatistics(
            is_open=keeper.is_open or not self._limits.is_bounded,
            why=keeper.why,
            used_bytes=keeper.used_bytes,
            size_bytes=keeper.size_bytes,
            written_bytes=totals.written_bytes,
            granted_bytes=max(totals.granted_bytes - totals.reserved_bytes, 0),
            refused=self._claims.refused,
            refused_bytes=self._claims.refused_bytes,
            writers=keeper.n_writers,
            touched=counts["touched"],
            touches_dropped=self._touches.dropped,
            gone=counts["gone"],
            removals_dropped=counts["removals_dropped"],
            failures=counts["failures"],
            evictor=None if self._evictor is None else self._evictor.statistics(),
        )

    def close(self) -> None:
        """Gives claims and lease back; within two seconds, whatever the file system does. Twice is fine."""
        self._closing.set()
        if self._evictor is not None:
            self._evictor.stop()
        self._wake.set()
        self._evict.set()
        deadline_s = time.monotonic() + _CLOSE_S
        for thread in self._threads:
            thread.join(max(deadline_s - time.monotonic(), 0))

    # The keeper's thread.

    def _keep(self) -> None:
        """Touches files, claims room, tells the evictor when there is none."""
        pause_s = self._limits.period_s
        while not self._closing.is_set():
            self._wake.clear()
            try:
                room = self._keeper.step()
                self._touch()
                self._heed_notices()
            except Exception as error:  # whatever others have left in the store, the thread goes on
                self._keeper.failed(str(error))
                self._failed(error)
                self._closing.wait(pause_s)
                pause_s = min(2 * pause_s, _RETRY_S_MAX)
                continue
            pause_s = self._limits.period_s
            if room.is_short or not self._keeper.state().is_open:
                self._evict.set()
                self._closing.wait(pause_s)  # asking again at once would not make room
            else:
                self._closing.wait(min(_SOON_S, pause_s))
                self._wake.wait(pause_s)
        with contextlib.suppress(OSError, StoreError):
            self._keeper.end()

    def _touch(self) -> None:
        for key in self._touches.take():
            try:
                os.utime(f"{self._folder}/{chunk_name(key)}", follow_symlinks=False)  # the file server's time
                self._count("touched")
            except FileNotFoundError:
                self._count("gone")
                self._add_removed([key])
            except PermissionError as error:  # another user's file, the others may be ours
                self._failed(error)

    def _heed_notices(self) -> None:
        """What others have evicted from this space, unless it was stored again since."""
        keys = self._notices.take(self._space)
        self._add_removed([key for key in keys if not os.path.lexists(f"{self._folder}/{chunk_name(key)}")])

    # The evictor's thread.

    def _evict_steps(self) -> None:
        evictor = self._evictor
        assert evictor is not None
        while not self._closing.is_set():
            self._evict.clear()
            try:
                evictor.step()
            except Exception as error:  # whatever others have left in the store, the thread goes on
                self._failed(error)
                self._closing.wait(min(10 * self._limits.period_s, _RETRY_S_MAX))
                continue
            self._wake.set()  # there may be room now
            self._closing.wait(min(_SOON_S, self._limits.period_s))
            self._evict.wait(self._limits.period_s)
        with contextlib.suppress(OSError, StoreError):
            evictor.close()

    def _removed_by_evictor(self, space: str, keys: Sequence[bytes]) -> None:
        if space == self._space:
            self._add_removed(keys)
        else:
            self._notices.leave(space, keys)  # those who announce for that space will find it

    def _add_removed(self, keys: Sequence[bytes]) -> None:
        with self._lock:
            self._counts["removals_dropped"] += max(len(self._removed) + len(keys) - _REMOVED_MAX, 0)
            self._removed.extend(keys)

    # Threads.

    def _started(self, run: Callable[[], None], name: str) -> threading.Thread:
        thread = threading.Thread(target=run, name=f"kvatlas-capacity-{name}", daemon=True)
        thread.start()
        return thread

    def _failed(self, error: Exception) -> None:
        """The threads go on; a failure like the last one is not logged again."""
        self._count("failures")
        with self._lock:
            is_new = str(error) != self._failure
            self._failure = str(error)
        if is_new:
            _log.warning("capacity of %s: %s", self._folder, quoted(error))

    def _count(self, name: str, n: int = 1) -> None:
        with self._lock:
            self._counts[name] += n
