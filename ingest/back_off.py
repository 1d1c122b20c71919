"""Pauses between questions to a server that is not reached."""

from __future__ import annotations

from collections.abc import Callable

_FIRST_S = 0.05
_DOUBLINGS_MAX = 16


class BackOff:
    """When a server is asked again after failures, and since when it is down.

    The first pause is 0.05 s, each further one doubles, up to a bound. One thread asks; `is_down` and
    `down_s` are for any.
    """

    def __init__(self, pause_s_max: float, clock_s: Callable[[], float]) -> None:
        self._pause_s_max = pause_s_max
        self._clock_s = clock_s
        self._failures = 0
        self._retry_at_s = 0.0
        self._down_since_s: float | None = None

    @property
    def wait_s(self) -> float:
        """Until it may be asked; 0: now."""
        return max(0.0, self._retry_at_s - self._clock_s()) if self._failures else 0.0

    @property
    def is_down(self) -> bool:
        """Whether the last that came of asking was that it is not reached."""
        return self._down_since_s is not None

    @property
    def down_s(self) -> float:
        """Since the first of these failures; 0: it is reached."""
        since_s = self._down_since_s
        return 0.0 if since_s is None else max(0.0, self._clock_s() - since_s)

    def failed(self) -> float:
        """It was not reached; returns the pause."""
        if self._down_since_s is None:
            self._down_since_s = self._clock_s()
        return self.pause()

    def pause(self) -> float:
        """It was reached, and is to be left alone for a while all the same; returns how long."""
        pause_s = min(self._pause_s_max, _FIRST_S * 2.0 ** min(self._failures, _DOUBLINGS_MAX))
        self._failures += 1
        self._retry_at_s = self._clock_s() + pause_s
        return pause_s

    def succeeded(self) -> None:
        self._failures, self._down_since_s = 0, None
