"""Links over Ray calls, for networks that allow nothing else: a round trip costs ten times as much."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from ray.exceptions import RayActorError

from kvatlas.actors.link.link import LinkSettings, LinkStatistics
from kvatlas.actors.link.pending import PendingRequests


class RayLink:
    """Calls `handle` of an actor that holds a shard. Any thread may call it.

    An actor that has died is looked up again with the next request.
    """

    def __init__(self, name: str, find: Callable[[], Any], settings: LinkSettings | None = None) -> None:
        """`find` gives the actor's handle, or raises ValueError when there is none."""
        self._find = find
        self._actor: Any = None
        self._pending = PendingRequests(name, settings or LinkSettings())

    def request(self, frame: bytes, timeout_s: float) -> Future[bytes]:
        number, future = self._pending.add(frame, timeout_s)
        if number is None:
            return future
        try:
            if self._actor is None:
                self._actor = self._find()
            called = self._actor.handle.remote(frame).future()
        except Exception as error:  # of Ray, which has many kinds
            self._failed(number, error)
            return future
        timer = threading.Timer(timeout_s, self._expire)
        timer.daemon = True
        timer.start()
        called.add_done_callback(partial(self._ended, number, timer))
        return future

    def _ended(self, number: int, timer: threading.Timer, called: Future[bytes]) -> None:
        timer.cancel()
        error = called.exception()
        if error is None:
            self._pending.answer(number, called.result())
        else:
            self._failed(number, error)

    def _failed(self, number: int, error: BaseException) -> None:
        if isinstance(error, (RayActorError, ValueError)):
            self._actor = None
        self._pending.fail(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}", number)

    def _expire(self) -> None:
        self._pending.expire(time.monotonic(), "no answer in time")

    def statistics(self) -> LinkStatistics:
        return self._pending.statistics()

    def close(self) -> None:
        self._pending.close()
