"""After a failure nobody asks a server again for a while."""

from __future__ import annotations

import random
from collections.abc import Callable

_FIRST_S = 0.025


class Breaker:
    """Closed: all may ask. Open: nobody, until the time is over; then one, whose outcome decides. Not
    thread-safe.

    The time doubles from failure to failure up to a bound, less up to half of it by chance: many processes
    that lost one server do not come back at one moment.
    """

    def __init__(self, backoff_s_max: float, clock_s: Callable[[], float]) -> None:
        self._bound_s = backoff_s_max
        self._clock_s = clock_s
        self._failures = 0
        self._open_until_s = 0.0
        self._probe_until_s = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the last that came of asking was a failure."""
        return self._failures > 0

    def may_ask(self, patience_s: float) -> bool:
        """Whether the caller may ask now, for at most so long, and then says what came of it."""
        if not self._failures:
            return True
        now_s = self._clock_s()
        if now_s < max(self._open_until_s, self._probe_until_s):
            return False
        # Others wait for the outcome; not for ever, should it never come.
        self._probe_until_s = now_s + patience_s
        return True

    def wait_s(self) -> float:
        """Until somebody may ask."""
        return max(0.0, self._open_until_s - self._clock_s())

    def succeeded(self) -> None:
        self._failures = 0
        self._probe_until_s = 0.0

    def failed(self) -> None:
        if self._failures and self._clock_s() < self._open_until_s:
            return  # one of those that asked at the same time: they are one failure
        self._failures += 1
        backoff_s = min(self._bound_s, _FIRST_S * 2 ** min(self._failures - 1, 20))
        self._open_until_s = self._clock_s() + backoff_s * random.uniform(0.5, 1.0)
        self._probe_until_s = 0.0
