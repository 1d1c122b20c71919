"""Notes of use: which files' dates a reader has to renew. The dates are written by Capacity's thread."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence


class Touches:
    """Gathers keys, each at most every `touch_s`. Any thread; no call waits or makes a system call."""

    def __init__(
        self,
        touch_s: float,
        *,
        remembered_max: int = 262_144,
        waiting_max: int = 65_536,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._touch_ns = int(touch_s * 1e9)
        self._remembered_max = remembered_max
        self._waiting_max = waiting_max
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._touched_ns: OrderedDict[bytes, int] = OrderedDict()
        self._waiting: list[bytes] = []
        self.dropped = 0
        """Uses that found `waiting_max` others waiting."""

    def add(self, keys: Sequence[bytes]) -> None:
        """These were used now."""
        now_ns = self._clock_ns()
        with self._lock:
            for key in keys:
                before_ns = self._touched_ns.get(key)
                if before_ns is not None and now_ns - before_ns < self._touch_ns:
                    continue
                if len(self._waiting) >= self._waiting_max:
                    self.dropped += 1
                    continue
                self._waiting.append(key)
                self._touched_ns[key] = now_ns
                self._touched_ns.move_to_end(key)
                if len(self._touched_ns) > self._remembered_max:
                    self._touched_ns.popitem(last=False)

    def take(self) -> list[bytes]:
        """Whose dates are to be renewed now."""
        with self._lock:
            taken, self._waiting = self._waiting, []
            return taken
