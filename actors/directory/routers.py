"""The processes of a cluster that choose, as its directory knows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from kvatlas.actors.orders import RouterAt, RouterReport

ROUTERS_MAX = 1024


@dataclass
class RouterKnown:
    """A router that has reported."""

    report: RouterReport
    heard_s: float


class Routers:
    """Routers that report. What it knows comes with their reports, also after it was lost.

    One thread at a time.
    """

    def __init__(self, cluster_id: str, silent_s_max: float, clock_s: Callable[[], float]) -> None:
        self.counts: Counter[str] = Counter()
        """`routers_joined`, `routers_silent`, `routers_refused`."""
        self.listed: tuple[RouterAt, ...] = ()
        """Those that are heard and publish, by number."""
        self._cluster_id = cluster_id
        self._silent_s_max = silent_s_max
        self._clock_s = clock_s
        self._known: dict[int, RouterKnown] = {}

    @property
    def members(self) -> list[RouterKnown]:
        return list(self._known.values())

    def hear(self, report: RouterReport) -> bool:
        """Takes a report; false: this one is of another start of the cluster, or one too many."""
        known = self._known.get(report.number)
        is_full = known is None and len(self._known) >= ROUTERS_MAX
        if report.cluster_id != self._cluster_id or is_full:
            self.counts["routers_refused"] += 1
            return False
        self.counts["routers_joined"] += known is None
        self._known[report.number] = RouterKnown(report, self._clock_s())
        if known is None or known.report.endpoint != report.endpoint:
            self._list()
        return True

    def tick(self) -> None:
        """Forgets those that are silent."""
        before_s = self._clock_s() - self._silent_s_max
        silent = [number for number, known in self._known.items() if known.heard_s < before_s]
        for number in silent:
            self.counts["routers_silent"] += 1
            del self._known[number]
        if silent:
            self._list()

    def _list(self) -> None:
        self.listed = tuple(
            RouterAt(number=number, endpoint=known.report.endpoint)
            for number, known in sorted(self._known.items())
            if known.report.endpoint
        )
