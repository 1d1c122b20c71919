"""How far behind its server a worker's content is, by the clocks of both."""

from __future__ import annotations

import msgspec

_WINDOW_S = 60.0
_SAMPLES_MIN = 16


class LagReport(msgspec.Struct, frozen=True, kw_only=True):
    """Lag of the last batch, and what is known of the server's clock."""

    seconds: float | None
    """From the batch's time to its arrival, less the clock's offset; None: no batch told its time."""
    clock_offset_s: float | None
    """Arrival less the server's time at its least, over a minute or two: the offset of the server's
    clock behind ours plus the quickest way. None: not known yet, and `seconds` includes it."""


class Lag:
    """The least difference of clocks within two windows of a minute is taken for their offset.

    Thread safety: none; it belongs to a worker.
    """

    def __init__(self) -> None:
        self._difference_s: float | None = None
        self._least_s = self._least_before_s = float("inf")
        self._n = 0
        self._window_ends_s = float("-inf")

    def note(self, ts: float, wall_s: float) -> None:
        """A batch made at `ts` by the server's clock has come at `wall_s` by ours."""
        difference_s = self._difference_s = wall_s - ts
        self._n += 1
        if wall_s >= self._window_ends_s:
            self._least_before_s, self._least_s = self._least_s, difference_s
            self._window_ends_s = wall_s + _WINDOW_S
        elif difference_s < self._least_s:
            self._least_s = difference_s

    def restart(self) -> None:
        """Another process, perhaps on another machine, speaks."""
        self.__init__()  # type: ignore[misc]

    def report(self) -> LagReport:
        if self._difference_s is None:
            return LagReport(seconds=None, clock_offset_s=None)
        if self._n < _SAMPLES_MIN:
            return LagReport(seconds=self._difference_s, clock_offset_s=None)
        offset_s = min(self._least_s, self._least_before_s)
        return LagReport(seconds=self._difference_s - offset_s, clock_offset_s=offset_s)
