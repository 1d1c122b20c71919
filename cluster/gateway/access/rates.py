"""How often one caller may ask."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable


class Rates:
    """A token bucket for each caller: `burst` requests at once, then `per_s`. Any thread.

    At most `callers_max` are remembered. Who is forgotten begins with a full bucket: that is a caller
    unheard for longest, whose bucket has filled up again in all likelihood.
    """

    def __init__(
        self, per_s: float, burst: int, callers_max: int, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        """`per_s` 0: no limit."""
        self._per_s = per_s
        self._burst = float(burst)
        self._callers_max = callers_max
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._left: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()
        self.refused = 0
        self.forgotten = 0
        """Callers."""

    def wait_s(self, caller: Hashable) -> float:
        """Takes one request of the caller. 0: it may go on; else the seconds until the next one may."""
        if not self._per_s:
            return 0.0
        now_s = self._clock_s()
        with self._lock:
            left, then_s = self._left.pop(caller, (self._burst, now_s))
            left = min(self._burst, left + (now_s - then_s) * self._per_s)
            may = left >= 1.0
            self._left[caller] = (left - may, now_s)
            if len(self._left) > self._callers_max:
                self._left.popitem(last=False)
                self.forgotten += 1
            if may:
                return 0.0
            self.refused += 1
            return (1.0 - left) / self._per_s
