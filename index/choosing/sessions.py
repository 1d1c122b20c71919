"""Which worker served a session last."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.scores import Worker


class Sessions:
    """At most `sessions_max` of them; the one unused longest goes. Any thread may call it.

    A soft preference is made of it, so workers that have left need not be forgotten: nobody finds
    them among the candidates.
    """

    def __init__(self, config: ChoosingConfig) -> None:
        self._sessions_max = config.sessions_max
        self._lock = threading.Lock()
        self._worker_of: OrderedDict[Hashable, Worker] = OrderedDict()
        self._evicted = 0

    def get(self, session: Hashable) -> Worker | None:
        """Its worker; None: not known."""
        with self._lock:
            worker = self._worker_of.get(session)
            if worker is not None:
                self._worker_of.move_to_end(session)
            return worker

    def put(self, session: Hashable, pod: str, rank: int) -> None:
        """From now on the session's worker is this one."""
        with self._lock:
            self._worker_of[session] = (pod, rank)
            self._worker_of.move_to_end(session)
            if len(self._worker_of) > self._sessions_max:
                self._worker_of.popitem(last=False)
                self._evicted += 1

    def statistics(self) -> dict[str, int]:
        with self._lock:
            return {
                "sessions": len(self._worker_of),
                "sessions_max": self._sessions_max,
                "evicted": self._evicted,
            }
