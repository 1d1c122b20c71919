"""Notes of use: which files' dates a reader has to renew. The dates are written by Capacity's thread."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence


class Touches:
    """Gathers keys, and gives each out at most every `touch_s`. No call waits or makes a system call.

    `add`, from any thread, only notes; which of the keys are due is found out by the one that takes them.
    """

    def __init__(
        self,
        touch_s: float,
        *,
        remembered_max: int = 262_144,
        waiting_max: int = 262_144,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._touch_ns = int(touch_s * 1e9)
        self._remembered_max = remembered_max
        self._waiting_max = waiting_max
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._touched_ns: OrderedDict[bytes, int] = OrderedDict()
        self._waiting: list[tuple[int, Sequence[bytes]]] = []
        self._n_waiting = 0
        self.dropped = 0
        """Uses that found `waiting_max` others waiting."""

    def add(self, keys: Sequence[bytes]) -> None:
        """These were used now."""
        now_ns = self._clock_ns()
        with self._lock:
            n_kept = min(len(keys), self._waiting_max - self._n_waiting)
            self.dropped += len(keys) - n_kept
            if n_kept:
                self._waiting.append((now_ns, keys if n_kept == len(keys) else keys[:n_kept]))
                self._n_waiting += n_kept

    def take(self) -> Iterator[bytes]:
        """Whose dates are to be renewed now; one thread. What is not iterated over is forgotten."""
        with self._lock:
            taken, self._waiting, self._n_waiting = self._waiting, [], 0
        for used_ns, keys in taken:
            for key in keys:
                if self._is_due(key, used_ns):
                    yield key

    def _is_due(self, key: bytes, used_ns: int) -> bool:
        before_ns = self._touched_ns.get(key)
        if before_ns is not None and used_ns - before_ns < self._touch_ns:
            return False
        self._touched_ns[key] = used_ns
        self._touched_ns.move_to_end(key)
        if len(self._touched_ns) > self._remembered_max:
            self._touched_ns.popitem(last=False)
        return True
