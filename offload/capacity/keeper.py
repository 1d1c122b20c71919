"""Keeps one writer's entry in the ledger, and claims room for it."""

from __future__ import annotations

import secrets
import threading
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

from kvatlas.offload.capacity.claims import Claims, ClaimTotals
from kvatlas.offload.capacity.control import ControlFolder
from kvatlas.offload.capacity.ledger import Ledger, new_entry, sums_of
from kvatlas.offload.capacity.limits import CapacityLimits
from kvatlas.offload.capacity.room import Room, ahead_bytes, room_of

_WANTED_PERIODS = 5
"""So long stays in the entry what was found no room for, that an evictor sees it."""


class KeeperState(NamedTuple):
    """What the last step has found."""

    is_open: bool
    why: str
    used_bytes: int
    size_bytes: int
    n_writers: int


class LedgerKeeper:
    """One writer's account with its store. `step` and `end` are one thread's, and wait for the file system.

    They raise OSError and StoreError.
    """

    def __init__(self, root: Path, limits: CapacityLimits, claims: Claims, writer: bytes, space: str) -> None:
        self._control = ControlFolder(root)
        self._limits = limits
        self._claims = claims
        self._writer = writer.hex()
        self._ledger = Ledger(self._control)
        self._entry = new_entry(self._new_name(), space)
        self._base_bytes = self._base_files = 0
        self._written_s: float | None = None
        self._wanted = (0, 0.0)
        self._lock = threading.Lock()
        self._state = KeeperState(False, "the store was not looked at yet", 0, 0, 0)

    def state(self) -> KeeperState:
        """Any thread."""
        with self._lock:
            return self._state

    def step(self) -> Room:
        """Claims what is needed where there is room, and tells the others; returns the room there is."""
        if self._written_s is None:
            self._control.prepare()
        self._control.check()
        if self._written_s is not None and self._entry.name not in self._ledger.entries():
            self._begin_again()
        room, n_writers, is_known = self._look()
        totals = self._claims.totals()
        if not self._limits.is_bounded:
            self._write(totals, totals.written_bytes)
        elif is_known:
            room = self._claim(totals, room, n_writers)
        else:
            self._write(totals, max(totals.granted_bytes, totals.reserved_bytes))
        self._note(totals, room, n_writers, is_known)
        return room

    def failed(self, why: str) -> None:
        """A step was not possible: the grant runs out by itself."""
        with self._lock:
            self._state = self._state._replace(is_open=False, why=why)

    def end(self) -> None:
        """Gives up what was claimed and not written. What was written stays until a crawl counts it."""
        if self._written_s is not None:
            self._claims.lower(0)
            totals = self._claims.totals()
            self._write(totals, totals.reserved_bytes, is_due=True)

    def _claim(self, totals: ClaimTotals, room: Room, n_writers: int) -> Room:
        """Tells the claim first, looks at the others' then, and uses it only where the sum fits."""
        free = totals.granted_bytes - totals.reserved_bytes
        ahead = ahead_bytes(self._limits, room, n_writers)
        if free > 2 * ahead + totals.wanted_bytes:
            granted = self._claims.lower(totals.reserved_bytes + ahead)
        else:
            more = min(max(ahead, totals.wanted_bytes) - free, room.free_bytes)
            granted = totals.granted_bytes + max(more, 0)
        is_met = granted - totals.reserved_bytes >= totals.largest_wanted_bytes
        self._want(0 if is_met else totals.largest_wanted_bytes)
        if self._write(totals, granted):
            room, _, _ = self._look()
            if granted > totals.granted_bytes and room.claimed_bytes > room.size_bytes:
                granted = max(granted - (room.claimed_bytes - room.size_bytes), totals.granted_bytes)
                self._write(totals, granted, is_due=True)
                room, _, _ = self._look()
            self._claims.grant(granted, totals)
        return room

    def _want(self, wanted_bytes: int) -> None:
        now_s = time.monotonic()
        lasts_s = _WANTED_PERIODS * self._limits.period_s
        if wanted_bytes or now_s - self._wanted[1] > lasts_s:
            self._wanted = (wanted_bytes, now_s)

    def _write(self, totals: ClaimTotals, claimed_bytes: int, *, is_due: bool = False) -> bool:
        """Whether the entry was written: it says something new, or the last one is old."""
        entry = msgspec.structs.replace(
            self._entry,
            written_bytes=totals.written_bytes - self._base_bytes,
            written_files=totals.written_files - self._base_files,
            claimed_bytes=max(claimed_bytes, totals.reserved_bytes) - self._base_bytes,
            wanted_bytes=self._wanted[0],
        )
        old = self._written_s is None or time.monotonic() - self._written_s > self._limits.dead_s / 4
        if not (is_due or old or entry != self._entry):
            return False
        entry = msgspec.structs.replace(entry, sequence=entry.sequence + 1)
        self._ledger.write(entry)
        self._entry, self._written_s = entry, time.monotonic()
        return True

    def _look(self) -> tuple[Room, int, bool]:
        """The room, by our own entry as we know it; how many write; whether anybody has crawled yet."""
        entries = {name: known.entry for name, known in self._ledger.entries().items()}
        entries[self._entry.name] = self._entry
        sums = sums_of(self._ledger.usage(), entries.values())
        return room_of(self._limits, sums, self._control.free_bytes()), sums.n_writers, sums.is_known

    def _begin_again(self) -> None:
        """We were taken for dead: what our entry said is in a crawl's total, a new one begins there."""
        self._base_bytes += self._entry.written_bytes
        self._base_files += self._entry.written_files
        self._claims.lower(0)
        self._entry = new_entry(self._new_name(), self._entry.space)
        self._written_s = None

    def _new_name(self) -> str:
        return f"{self._writer}-{secrets.token_hex(4)}"

    def _note(self, totals: ClaimTotals, room: Room, n_writers: int, is_known: bool) -> None:
        why = ""
        if self._limits.is_bounded and not is_known:
            why = "nobody has counted what lies in the store yet"
        elif self._limits.is_bounded and self._wanted[0]:
            why = f"full: {room.claimed_bytes} of {room.size_bytes} bytes are taken"
        with self._lock:
            self._state = KeeperState(not why, why, room.used_bytes, room.size_bytes, n_writers)
