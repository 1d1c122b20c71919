"""How often a worker's engine has restarted lately: too often means that two publishers take turns."""

from __future__ import annotations

from collections import deque

from kvatlas.ingest.stream.limits import StreamLimits
from kvatlas.ingest.stream.truth import Truth


class Incarnations:
    """Restarts, and batches of other publishers, within `contested_s`."""

    def __init__(self, limits: StreamLimits) -> None:
        self._limits = limits
        self._began_s: deque[float] = deque(maxlen=limits.incarnations_max + 8)
        self._contested_s: float | None = None

    def began(self, now_s: float) -> None:
        """Another incarnation of the engine speaks."""
        self._began_s.append(now_s)

    def contest(self, now_s: float) -> None:
        """Another publisher has been seen."""
        self._contested_s = now_s

    @property
    def n_beyond(self) -> int:
        """Restarts beyond what one engine does."""
        return max(len(self._began_s) - self._limits.incarnations_max, 0)

    def watch(self, truth: Truth, now_s: float) -> None:
        """Put the worker in doubt while it is contested."""
        if why := self.contested(now_s):
            truth.doubt("contested", now_s, why)
        else:
            truth.settle("contested")

    def contested(self, now_s: float) -> str:
        """Why the worker seems to have two publishers; empty: it does not."""
        since_s = now_s - self._limits.contested_s
        while self._began_s and self._began_s[0] <= since_s:
            self._began_s.popleft()
        if self.n_beyond:
            return f"{len(self._began_s)} engine restarts in {self._limits.contested_s:g} s"
        if self._contested_s is not None and self._contested_s > since_s:
            return "its batches come from two endpoints"
        return ""
