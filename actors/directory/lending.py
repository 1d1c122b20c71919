"""The numbers of lanes and workers that subscribers are given, as many at a time as they need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from kvatlas.actors.directory.leases import Leases
from kvatlas.actors.directory.sessions import Session
from kvatlas.actors.directory.settings import DirectorySettings
from kvatlas.actors.orders import SubscriberReport
from kvatlas.index.errors import InputError

_NUMBERS = 65_534
_LEASE_MAX = 8192


class Lent:
    """The two kinds of numbers that sessions hold. One thread at a time."""

    def __init__(
        self, settings: DirectorySettings, counts: Counter[str], clock_s: Callable[[], float]
    ) -> None:
        """Counts `numbers_exhausted` and `sessions_retired`."""
        rest_s = settings.deadlines.lane_rest_s
        self.lanes = Leases(_NUMBERS, rest_s, clock_s)
        self.workers = Leases(_NUMBERS, rest_s, clock_s)
        self._settings = settings
        self._counts = counts

    def begin(self, session: Session) -> None:
        """The first ones of a new session."""
        self._lend(self.lanes, session, self._settings.lanes_leased)
        self._lend(self.workers, session, self._settings.workers_leased)

    def add(self, session: Session, report: SubscriberReport) -> bool:
        """More of them where it has few left; whether it has more now."""
        lent = False
        for leases, free, count in (
            (self.lanes, report.lanes_free, self._settings.lanes_leased),
            (self.workers, report.workers_free, self._settings.workers_leased),
        ):
            if free < count // 4:
                held = sum(lease.count for lease in leases.of(session.number))
                lent |= self._lend(leases, session, min(max(count, held), _LEASE_MAX))
        return lent

    def end(self, sessions: list[Session]) -> None:
        """These are over: what they hold goes to rest."""
        for session in sessions:
            self._counts["sessions_retired"] += 1
            self.lanes.end(session.number)
            self.workers.end(session.number)

    def _lend(self, leases: Leases, session: Session, count: int) -> bool:
        try:
            leases.lend(session.number, count)
        except InputError:
            self._counts["numbers_exhausted"] += 1
            return False
        return True
