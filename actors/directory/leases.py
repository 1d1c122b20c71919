"""Numbers lent to sessions in ranges, lanes and workers: none has two owners, none is used again at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from kvatlas.actors.orders import Lease
from kvatlas.index.errors import InputError


class Leases:
    """The numbers from 0 to `n_numbers`, as ranges that sessions hold, that rest, or that are free.

    Numbers that a session gave back rest for `rest_s`, so that nobody who still has an old view takes
    one owner's for another's. One thread at a time.
    Invariant: each number is held by one session, rests, or is free; never two of these.
    """

    def __init__(self, n_numbers: int, rest_s: float, clock_s: Callable[[], float]) -> None:
        self._rest_s = rest_s
        self._clock_s = clock_s
        self._free = [Lease(0, n_numbers)]
        """By their first numbers; no two touch."""
        self._held: dict[int, tuple[Lease, ...]] = {}
        self._resting: deque[tuple[float, Lease]] = deque()
        """With the time at which each is free, the earliest first."""

    def lend(self, session: int, count: int) -> Lease:
        """A range for a session; a shorter one where no free one is so long.

        Raises InputError when all are in use or rest.
        """
        self._wake()
        longest = max(self._free, key=lambda lease: lease.count, default=None)
        if longest is None:
            raise InputError(f"leases: expected a free number for session {session}, got none")
        found = next((lease for lease in self._free if lease.count >= count), longest)
        lent = Lease(found.first, min(count, found.count))
        left = Lease(found.first + lent.count, found.count - lent.count)
        at = self._free.index(found)
        self._free[at : at + 1] = [left] if left.count else []
        self._held[session] = (*self.of(session), lent)
        return lent

    def end(self, session: int) -> None:
        """All that the session holds goes to rest; a session that holds nothing is fine."""
        free_at_s = self._clock_s() + self._rest_s
        self._resting.extend((free_at_s, lease) for lease in self._held.pop(session, ()))

    def of(self, session: int) -> tuple[Lease, ...]:
        return self._held.get(session, ())

    @property
    def held(self) -> dict[int, tuple[Lease, ...]]:
        """By session."""
        return dict(self._held)

    @property
    def resting(self) -> tuple[Lease, ...]:
        self._wake()
        return tuple(lease for _, lease in self._resting)

    @property
    def n_free(self) -> int:
        self._wake()
        return sum(lease.count for lease in self._free)

    def restore(self, held: dict[int, tuple[Lease, ...]], resting: Iterable[Lease]) -> None:
        """What was kept of an earlier life; what rested then rests anew. Before anything is lent.

        Raises InputError when a number would have two owners or is none of ours.
        """
        for lease in (*(lease for leases in held.values() for lease in leases), *resting):
            self._take(lease)
        self._held = dict(held)
        free_at_s = self._clock_s() + self._rest_s
        self._resting = deque((free_at_s, lease) for lease in resting)

    def _take(self, lease: Lease) -> None:
        end = lease.first + lease.count
        for at, free in enumerate(self._free):
            if free.first <= lease.first and end <= free.first + free.count:
                before = Lease(free.first, lease.first - free.first)
                after = Lease(end, free.first + free.count - end)
                self._free[at : at + 1] = [part for part in (before, after) if part.count]
                return
        raise InputError(f"leases: expected free numbers, got {lease.first} to {end - 1}")

    def _wake(self) -> None:
        """Those that have rested are free."""
        now_s = self._clock_s()
        woken = []
        while self._resting and self._resting[0][0] <= now_s:
            woken.append(self._resting.popleft()[1])
        if not woken:
            return
        merged: list[Lease] = []
        for lease in sorted([*self._free, *woken], key=lambda lease: lease.first):
            if merged and merged[-1].first + merged[-1].count == lease.first:
                merged[-1] = Lease(merged[-1].first, merged[-1].count + lease.count)
            else:
                merged.append(lease)
        self._free = merged
