"""What one writer may write: reserved in memory, out of what it has claimed before all others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple


class ClaimTotals(NamedTuple):
    """Of one writer since it began."""

    written_bytes: int
    written_files: int
    reserved_bytes: int
    """Written, and being written now."""
    granted_bytes: int
    """Of which what is not reserved may be reserved."""
    wanted_bytes: int
    """What `reserve` has refused since the last grant."""
    largest_wanted_bytes: int
    """Of one of these."""
    taken_ns: int
    """When, by the clock of the claims."""


class Claims:
    """Counts reservations against a grant. Any thread; no call waits or makes a system call.

    A grant is good for `valid_s` after it was last confirmed: a writer that was stopped for longer, or that
    has lost the store, may have been counted out by the others.
    """

    def __init__(self, valid_s: float, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._valid_ns = int(valid_s * 1e9)
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._written_bytes = self._written_files = 0
        self._in_flight_bytes = 0
        self._granted_bytes = 0
        self._wanted_bytes = self._largest_wanted_bytes = 0
        self._valid_until_ns = 0
        self.refused_bytes = 0
        """For want of room, of a valid grant, or of either."""
        self.refused = 0

    def reserve(self, n_bytes: int) -> bool:
        """Whether so much may be written; then it is reserved until `stored` or `not_stored`."""
        with self._lock:
            reserved = self._written_bytes + self._in_flight_bytes
            if reserved + n_bytes <= self._granted_bytes and self._clock_ns() < self._valid_until_ns:
                self._in_flight_bytes += n_bytes
                return True
            self._wanted_bytes += n_bytes
            self._largest_wanted_bytes = max(self._largest_wanted_bytes, n_bytes)
            self.refused += 1
            self.refused_bytes += n_bytes
            return False

    def stored(self, n_bytes: int, n_files: int = 1) -> None:
        """What was reserved lies in the store now."""
        with self._lock:
            self._in_flight_bytes = max(self._in_flight_bytes - n_bytes, 0)
            self._written_bytes += n_bytes
            self._written_files += n_files

    def not_stored(self, n_bytes: int) -> None:
        """What was reserved does not: it failed, or lay there already."""
        with self._lock:
            self._in_flight_bytes = max(self._in_flight_bytes - n_bytes, 0)

    def totals(self) -> ClaimTotals:
        with self._lock:
            reserved = self._written_bytes + self._in_flight_bytes
            return ClaimTotals(
                self._written_bytes,
                self._written_files,
                reserved,
                self._granted_bytes,
                self._wanted_bytes,
                self._largest_wanted_bytes,
                self._clock_ns(),
            )

    def lower(self, granted_bytes: int) -> int:
        """Gives up what is granted beyond this and not reserved; returns what stays granted."""
        with self._lock:
            reserved = self._written_bytes + self._in_flight_bytes
            self._granted_bytes = max(min(self._granted_bytes, granted_bytes), reserved)
            return self._granted_bytes

    def grant(self, granted_bytes: int, considered: ClaimTotals) -> None:
        """All others know of a claim of so much in total; what was wanted at `considered` is settled.

        It is good from then on, and not from now: they may have been told long ago.
        """
        with self._lock:
            self._granted_bytes = granted_bytes
            self._wanted_bytes = max(self._wanted_bytes - considered.wanted_bytes, 0)
            if not self._wanted_bytes:
                self._largest_wanted_bytes = 0
            self._valid_until_ns = considered.taken_ns + self._valid_ns
