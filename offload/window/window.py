"""The window: which chunks lie in host memory between the GPU and a store, and what moves there.

    GPU  --store-->  slot (FILLING, then READY)  --written in the background-->  store
    GPU  <--load---  slot (READY, pinned)        <--read and verified----------  store (slot FILLING)

A lookup says HIT only of what lies READY in a slot: whatever is promised to an engine must load, or the
engine ends. For all else it says "ask again" for as long as the request may wait, then MISS. A slot is
READY when all workers have copied it from the GPU, or when its bytes have come from the store and were
verified. Nothing is evicted between a lookup and the `prepare_load` of the same engine step: only
`prepare_store` and `end_step` do that.

Nothing here makes a system call or waits, but `close`: `end_step` starts what the lookups of a step want,
and takes in what has ended. One thread.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Sequence

import msgspec
import numpy as np

from kvatlas.offload._native import Catalogue, Slots
from kvatlas.offload.storing.storage import Storage
from kvatlas.offload.window.figures import WindowStatistics
from kvatlas.offload.window.loading import Loading
from kvatlas.offload.window.settings import WindowSettings
from kvatlas.offload.window.shared_memory import WindowMemory
from kvatlas.offload.window.transfers import Rows, StoreBegun, Transfers
from kvatlas.offload.window.waiting import Waiting
from kvatlas.offload.window.writing import Writing

MISS, HIT, PENDING, RETRY = range(4)
"""Answers of a lookup: not to be had; in the window; there, and on its way; not known yet."""

_EXPIRE_S = 1.0
_CLOSE_S = 1.0
_CHANGES_MAX = 1 << 17
_PRESENT, _ABSENT, _FILLING = Catalogue.PRESENT, Catalogue.ABSENT, Slots.FILLING


class Change(msgspec.Struct, frozen=True):
    """Chunks that came into the window, or left it."""

    keys: Sequence[bytes]
    is_removal: bool


class Window:
    """One engine's window, in front of a store; for the engine core's thread."""

    def __init__(
        self,
        settings: WindowSettings,
        memory: WindowMemory,
        storage: Storage,
        *,
        key_bytes: int,
        n_writing_ranks: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        n_rows, numbers = memory.shape.n_rows, itertools.count()
        self._memory, self._storage, self._clock, self._key_bytes = memory, storage, clock, key_bytes
        self._slots = Slots(n_rows, key_bytes)
        self._find = self._slots.find
        self._request_chunks_max = max(1, int(n_rows * settings.request_share))
        self._loading = Loading(self._slots, storage, numbers, max(1, int(n_rows * settings.loads_share)))
        self._writing = Writing(self._slots, storage, numbers)
        self._waiting = Waiting(self._slots, settings.wait_s_max, settings.hold_s_max)
        self._transfers = Transfers(
            self._slots, memory.board, key_bytes=key_bytes, n_writing_ranks=n_writing_ranks
        )
        self._changes: list[Change] = []
        self._n_changes = 0
        self._n_changes_max = _CHANGES_MAX if settings.events else 0
        self._hits_in_all = self._cut_lookups = self._refused_stores = self._dropped_changes = 0
        self._expire_at_s = 0.0
        # Of the request whose lookups are being answered: what was found, how much was not.
        self._request: str | None = None
        self._hits: dict[bytes, None] = {}
        self._n_unready = 0
        self._is_usable = self._check()
        self._is_barred = False
        self._now_s = clock()

    # --- lookups --------------------------------------------------------------------------------------------

    def lookup(self, key: bytes, request: str) -> int:
        """MISS, HIT, PENDING or RETRY. In one step, all lookups of a request follow one another."""
        if request != self._request:
            self._turn_to(request)
        if len(key) != self._key_bytes or self._is_barred:
            return MISS
        slot = self._find(key)
        if slot >= 0:
            self._hits[key] = None
            return HIT
        return self._look_further(key, slot, request)

    def _look_further(self, key: bytes, slot: int, request: str) -> int:
        state = _PRESENT if slot == _FILLING else self._storage.lookup(key)
        if state == _ABSENT:
            return MISS
        if len(self._hits) + self._n_unready >= self._request_chunks_max:
            self._cut_lookups += 1
            return MISS
        if not self._waiting.may_wait(request, self._now_s):
            return MISS
        self._n_unready += 1
        if state != _PRESENT:
            return RETRY
        if slot != _FILLING:
            self._loading.want(key, request)
        return PENDING

    def _turn_to(self, request: str | None) -> None:
        """Another request's lookups follow: what was found for the last one is in use, or waited with."""
        if self._hits:
            self._hits_in_all += len(self._hits)
            if self._n_unready and self._request is not None:
                self._waiting.hold(self._request, list(self._hits))
            else:
                self._slots.touch(b"".join(self._hits))
            self._hits = {}
        self._request, self._n_unready = request, 0
        self._is_barred = not self._is_usable or (request is not None and self._waiting.has_failed(request))
        self._now_s = self._clock()

    def forget(self, request: str) -> None:
        """The request has ended; its transfers may still be under way."""
        self._waiting.forget(request)

    # --- transfers of the workers ---------------------------------------------------------------------------

    def prepare_load(self, keys: Collection[bytes], request: str) -> tuple[Rows, int]:
        """The rows of chunks that a lookup has found in this step, pinned, and the transfer's ticket."""
        rows, ticket = self._transfers.begin_load(keys, request)
        self._waiting.served(request)
        self._storage.touch(list(keys))
        return rows, ticket

    def complete_load(self, request: str) -> None:
        """All workers have ended the request's load."""
        if not self._transfers.end_load(request):
            self._waiting.failed(request, self._now_s)

    def prepare_store(self, keys: Sequence[bytes]) -> StoreBegun | None:
        """Slots for chunks that neither window nor store has. None: no room just now."""
        present = self._storage.present_of(keys)
        if present:
            self._storage.touch(present)
        there = set(present)
        wanted = [key for key in keys if len(key) == self._key_bytes and key not in there]
        if not wanted:
            return StoreBegun([], np.empty(0, np.int32), [], 0)
        begun = None
        if self._is_usable:
            begun = self._transfers.begin_store(wanted[: self._request_chunks_max])
        if begun is None:
            self._refused_stores += len(wanted)
            return None
        self._refused_stores += max(0, len(wanted) - self._request_chunks_max)
        self._changed(begun.evicted, is_removal=True)
        return begun

    def complete_store(self, keys: Collection[bytes], *, succeeded: bool = True) -> None:
        """All workers have ended the store; what went well is written in the background."""
        stored = self._transfers.end_store(keys, succeeded=succeeded)
        if stored is not None:
            self._changed(stored.keys, is_removal=False)
            self._writing.start(stored.keys, stored.rows)

    # --- steps ----------------------------------------------------------------------------------------------

    def end_step(self) -> None:
        """Once for every step of the engine: asks the store for what was wanted, takes in what has come."""
        self._turn_to(None)
        self._is_usable = self._check()
        self._storage.end_step()
        for done in self._storage.finished():
            if done.is_load:
                self._changed(self._loading.ended(done), is_removal=False)
            else:
                self._writing.ended(done)
        if self._transfers.n_abandoned:
            self._transfers.free_abandoned()
        self._changed(self._loading.start(), is_removal=True)
        if self._now_s >= self._expire_at_s:
            self._expire_at_s = self._now_s + _EXPIRE_S
            self._waiting.expire(self._now_s)

    def _check(self) -> bool:
        """Whether anything may be stored or loaded in the next step."""
        if not self._memory.has_all_workers:
            self._slots.clear()  # a worker was there, and has gone: what it was copying may still write
            return False
        return self._transfers.has_room

    @property
    def is_busy(self) -> bool:
        """Whether another step would have something to do, with requests or without."""
        return self._storage.is_busy or bool(self._changes) or self._transfers.n_abandoned > 0

    def take_changes(self) -> list[Change]:
        """What has come and gone since the last call, in that order."""
        changes, self._changes, self._n_changes = self._changes, [], 0
        return changes

    def _changed(self, keys: Sequence[bytes], *, is_removal: bool) -> None:
        if not keys or not self._n_changes_max:
            return
        if self._n_changes + len(keys) > self._n_changes_max:
            self._dropped_changes += len(keys)
            return
        self._changes.append(Change(keys, is_removal))
        self._n_changes += len(keys)

    def reset(self) -> None:
        """Forgets what lies in the window. The store keeps its files, and what is being written or loaded
        goes on.
        """
        self._turn_to(None)
        self._waiting.forget_all()
        self._transfers.abandon()
        self._slots.clear()

    def statistics(self) -> WindowStatistics:
        loading, transfers, waiting = self._loading, self._transfers, self._waiting
        return WindowStatistics(
            slots=self._slots.statistics(),
            hits=self._hits_in_all,
            cut_lookups=self._cut_lookups,
            refused_stores=self._refused_stores,
            written=self._writing.written,
            loaded=loading.loaded,
            failed_loads=loading.failed,
            postponed_loads=loading.postponed,
            gave_up=waiting.gave_up,
            expired_holds=waiting.expired,
            failed_device_loads=transfers.failed_loads,
            failed_device_stores=transfers.failed_stores,
            broken_promises=transfers.broken_promises,
            dropped_changes=self._dropped_changes,
            loading=loading.n_loading,
            writing=self._writing.n_writing,
            waiting=len(waiting),
            held=waiting.n_held,
            transfers=len(transfers),
            abandoned=transfers.n_abandoned,
        )

    def close(self, seconds: float) -> None:
        """Waits, so long at most, until what is being written is written; then lets go of all."""
        self._storage.drain(seconds)
        self._storage.close(_CLOSE_S)  # nothing is under way: only a thread that hangs would be waited for
        self._memory.close()
