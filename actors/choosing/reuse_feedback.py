"""What workers have reused, gathered until their subscribers are told."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from kvatlas.actors.orders import ReuseReport, ReuseTold

_EACH_MAX = 256
"""More comparisons of one worker than its mirror would look at."""
_WORKERS_MAX = 8192


class ReuseFeedback:
    """Comparisons of predicted with actual reuse, by worker. Any thread may call it."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """`reuses_noted`, `reuses_dropped` at a bound, `reuses_unclaimed` where nobody follows the pod."""
        self._lock = threading.Lock()
        self._waiting: dict[tuple[str, int, str], list[tuple[int, int]]] = {}

    def note(self, pod: str, rank: int, model: str, predicted_tokens: int, actual_tokens: int) -> None:
        """One prompt's; left out, and counted, beyond 256 of a worker or 8192 workers."""
        worker = (pod, rank, model)
        with self._lock:
            compared = self._waiting.get(worker)
            if compared is None and len(self._waiting) < _WORKERS_MAX:
                compared = self._waiting[worker] = []
            if compared is None or len(compared) >= _EACH_MAX:
                self.counts["reuses_dropped"] += 1
                return
            self.counts["reuses_noted"] += 1
            compared.append((predicted_tokens, actual_tokens))

    def statistics(self) -> dict[str, int]:
        with self._lock:
            return dict(self.counts)

    def take(self, subscriber_of: Callable[[str], str | None]) -> dict[str, ReuseReport]:
        """What has come since the last call, by the name of the subscriber that should be told."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        told: dict[str, list[ReuseTold]] = {}
        for (pod, rank, model), compared in waiting.items():
            name = subscriber_of(pod)
            if name is None:
                with self._lock:
                    self.counts["reuses_unclaimed"] += len(compared)
            else:
                told.setdefault(name, []).append(ReuseTold(pod, rank, model, tuple(compared)))
        return {name: ReuseReport(workers=tuple(workers)) for name, workers in told.items()}
