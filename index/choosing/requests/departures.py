"""Which pods have left for good."""

from __future__ import annotations

from collections.abc import Iterable

_ABSENT_S = 10.0


class Departures:
    """A pod that nobody lists for ten seconds has left; until then it may be a view that is late.

    Its owner holds a lock around every call.
    """

    def __init__(self) -> None:
        self._absent_since_s: dict[str, float] = {}

    def left(self, known: Iterable[str], listed: Iterable[str], now_s: float) -> list[str]:
        """Of the pods that are known, those that have left."""
        here = set(listed)
        absent = {pod: self._absent_since_s.get(pod, now_s) for pod in known if pod not in here}
        gone = [pod for pod, since_s in absent.items() if since_s + _ABSENT_S <= now_s]
        for pod in gone:
            del absent[pod]
        self._absent_since_s = absent
        return gone
