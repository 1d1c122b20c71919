"""Requests that wait for their answers: bounded, each with a deadline, all counted."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import Future
from typing import NamedTuple

from kvatlas.actors.link.link import LinkError, LinkSettings, LinkStatistics


class _Request(NamedTuple):
    frame: bytes
    future: Future[bytes]
    deadline_s: float


class PendingRequests:
    """The requests of one link, by number. Any thread may call any method; who ends one sets its future."""

    def __init__(self, name: str, settings: LinkSettings) -> None:
        self._name = name
        self._settings = settings
        self._lock = threading.Lock()
        self._waiting: dict[int, _Request] = {}
        self._asked = self._answered = self._failed = self._late = 0
        self._said = ""
        self._closed = False

    def add(self, frame: bytes, timeout_s: float) -> tuple[int | None, Future[bytes]]:
        """Number and future of a new request; no number when it has failed already."""
        future: Future[bytes] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            self._asked += 1
            number, why = self._asked, self._no_room(len(frame))
            if not why:
                self._waiting[number] = _Request(frame, future, time.monotonic() + timeout_s)
                return number, future
            self._failed += 1
            self._said = why
        future.set_exception(LinkError(f"{self._name}: {why}"))
        return None, future

    def _no_room(self, frame_bytes: int) -> str:
        if self._closed:
            return "expected a link that is open, got one that was closed"
        if frame_bytes > self._settings.message_bytes_max:
            return f"expected a frame of at most {self._settings.message_bytes_max} bytes, got {frame_bytes}"
        if len(self._waiting) >= self._settings.in_flight_max:
            return f"expected at most {self._settings.in_flight_max} requests in flight, got one more"
        return ""

    def frame(self, number: int) -> bytes | None:
        """None: nobody waits for its answer any more."""
        with self._lock:
            request = self._waiting.get(number)
        return None if request is None else request.frame

    def answer(self, number: int, frame: bytes) -> None:
        with self._lock:
            request = self._waiting.pop(number, None)
            if request is None:
                self._late += 1
                return
            self._answered += 1
        request.future.set_result(frame)

    def fail(self, why: str, number: int | None = None) -> None:
        """One request, or all that wait."""
        with self._lock:
            numbers = [one for one in self._waiting if number in (None, one)]
            ended = [self._waiting.pop(one).future for one in numbers]
            if ended:
                self._failed += len(ended)
                self._said = why
        for future in ended:
            future.set_exception(LinkError(f"{self._name}: {why}"))

    def expire(self, now_s: float, why: str) -> None:
        """Fail those whose time is over."""
        with self._lock:
            late = [number for number, request in self._waiting.items() if request.deadline_s <= now_s]
        for number in late:
            self.fail(why, number)

    def deadline_s(self) -> float:
        """The first one; infinite: nothing waits."""
        with self._lock:
            return min((request.deadline_s for request in self._waiting.values()), default=math.inf)

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self.fail("the link was closed")

    def statistics(self, connections: int = 1) -> LinkStatistics:
        with self._lock:
            return LinkStatistics(
                asked=self._asked,
                answered=self._answered,
                failed=self._failed,
                late=self._late,
                in_flight=len(self._waiting),
                connections=connections,
                said=self._said,
            )
