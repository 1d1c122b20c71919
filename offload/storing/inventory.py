"""What is in a store at start: a thread of its own looks through it, the engine takes it in small batches."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from kvatlas.index.errors import quoted

_log = logging.getLogger(__name__)

_BATCHES_WAITING_MAX = 8
_STOP_LOOKS_S = 0.1
_SILENCE_S_MAX = 5.0
_REMOVED_MAX = 1 << 17


class Inventory:
    """Keys found in a store, once. The thread waits while nobody takes what it has found.

    A key that is removed while the walk goes on must not be told of afterwards: `forget` says so.
    """

    def __init__(self, walk: Callable[[], Iterator[Sequence[bytes]]], store: str) -> None:
        self._walk, self._store = walk, store
        self._queue: queue.Queue[Sequence[bytes]] = queue.Queue(_BATCHES_WAITING_MAX)
        self._stopping = threading.Event()
        self._rest: list[bytes] = []
        self._forgotten: set[bytes] = set()
        self._moved_at_s = time.monotonic()
        self.is_over = False
        """All that was found has been taken, or the walk has failed."""
        self._is_walking = True
        self._thread = threading.Thread(target=self._run, name="kvatlas-inventory", daemon=True)
        self._thread.start()

    @property
    def is_moving(self) -> bool:
        """Whether there is, or soon will be, something to take. A walk that hangs is not waited for."""
        return not self.is_over and time.monotonic() - self._moved_at_s < _SILENCE_S_MAX

    def forget(self, keys: Sequence[bytes]) -> None:
        """These were removed since the walk began."""
        if not self.is_over and len(self._forgotten) < _REMOVED_MAX:
            self._forgotten.update(keys)

    def take(self, most: int) -> list[bytes]:
        """Up to so many keys; never waits."""
        if self.is_over:
            return []
        was_walking = self._is_walking  # asked before the queue: what it put there before it ended is there
        while len(self._rest) < most:
            try:
                self._rest.extend(self._queue.get_nowait())
            except queue.Empty:
                break
        taken, self._rest = self._rest[:most], self._rest[most:]
        if taken:
            self._moved_at_s = time.monotonic()
        elif not was_walking:
            self.is_over = True
            self._forgotten.clear()
        return [key for key in taken if key not in self._forgotten]

    def close(self, seconds: float) -> None:
        """The walk is over, or ends by itself when its file system answers."""
        self._stopping.set()
        self._thread.join(seconds)
        self.is_over = True

    def _run(self) -> None:
        try:
            for keys in self._walk():
                self._moved_at_s = time.monotonic()
                if not self._put(keys):
                    return
        except Exception as error:  # a store whose walk fails is served without it
            _log.warning("store %s: looking through it failed: %s", self._store, quoted(error))
        finally:
            self._is_walking = False

    def _put(self, keys: Sequence[bytes]) -> bool:
        while not self._stopping.is_set():
            try:
                self._queue.put(keys, timeout=_STOP_LOOKS_S)
                return True
            except queue.Full:
                continue
        return False
