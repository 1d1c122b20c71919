"""Tells a store's content on a socket of its own, removals also while the engine sleeps."""

from __future__ import annotations

import collections
import threading
from collections.abc import Iterable, Sequence

from kvatlas.offload.backends.backend import Backend
from kvatlas.offload.events.store_events import StoreEvents
from kvatlas.offload.storing.announcements import Announcement

_LOOKS_S = 0.25
_REMOVED_MAX = 1 << 20  # for an engine that sleeps; what it has not heard of fails to load
_CLOSE_S = 2.0


class Announcer:
    """Takes what a backend has evicted, tells it at once, and keeps it for the engine's next step.

    `tell` and `take_removed` are one thread's; nothing waits but `close`, for two seconds.
    """

    def __init__(self, backend: Backend, events: StoreEvents) -> None:
        """Takes the socket over: `close` ends it."""
        self._backend, self._events = backend, events
        self._removed: collections.deque[bytes] = collections.deque(maxlen=_REMOVED_MAX)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kvatlas-announcer", daemon=True)
        self._thread.start()

    def tell(self, announcements: Iterable[Announcement]) -> None:
        for announcement in announcements:
            if announcement.is_removal:
                self._events.removed(announcement.keys)
            else:
                self._events.stored(announcement.keys)

    def take_removed(self) -> Sequence[bytes]:
        """Keys evicted since the last call; they have been told."""
        removed = self._removed
        return [removed.popleft() for _ in range(len(removed))] if removed else ()

    def close(self) -> None:
        """Tells what is left. A socket whose thread waits for the store is left behind."""
        self._stopping.set()
        self._thread.join(_CLOSE_S)
        ending = threading.Thread(target=self._events.close, name="kvatlas-announcer-end", daemon=True)
        ending.start()
        ending.join(_CLOSE_S)

    def _run(self) -> None:
        while not self._stopping.wait(_LOOKS_S):
            removed = self._backend.take_removed()
            if removed:
                self._events.removed(removed)
                self._removed.extend(removed)
