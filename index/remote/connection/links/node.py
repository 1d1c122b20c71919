"""One server as one process sees it: its connections, its failures."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from kvatlas.index.remote.connection.failures import ServerError
from kvatlas.index.remote.connection.links.breaker import Breaker
from kvatlas.index.remote.connection.links.deadline import Deadline
from kvatlas.index.remote.connection.settings import RemoteSettings
from kvatlas.index.remote.connection.status import RemoteCounts
from kvatlas.index.remote.connection.url import Address, RemoteUrl

if TYPE_CHECKING:
    from kvatlas.index.remote.connection.links.link import Link


class Node:
    """A pool of at most connections_max links and the breaker before them. Any thread."""

    def __init__(
        self,
        address: Address,
        url: RemoteUrl,
        settings: RemoteSettings,
        counts: RemoteCounts,
        clock_s: Callable[[], float],
    ) -> None:
        self.address = address
        self._url = url
        self._settings = settings
        self._counts = counts
        self._clock_s = clock_s
        self._is_closed = False
        self._is_retired = False
        self.words = ""
        """Of the last failure."""
        self.after_fork()

    def after_fork(self) -> None:
        """Nothing is shared with the parent: not its sockets, not its locks."""
        self._lock = threading.Condition(threading.Lock())
        self._idle: list[Link] = []
        self._n_links = 0
        self._has_failed = False
        self._breaker = Breaker(self._settings.backoff_ms_max / 1000, self._clock_s)

    @property
    def n_links(self) -> int:
        return self._n_links

    @property
    def is_failing(self) -> bool:
        return self._breaker.is_open

    def take(self, deadline: Deadline) -> Link:
        """A link that nobody else has, to be given back, failed or dropped. Raises ServerError, at once while
        backing off."""
        with self._lock:
            if self._is_closed:
                raise ServerError(f"{self.address}: expected an open connection, got a closed one", "closed")
            if not self._breaker.may_ask(deadline.hard_until_s - time.monotonic()):
                self._counts.held_back += 1
                wait_ms = self._breaker.wait_s() * 1000
                raise ServerError(f"{self.words} (not asked again for {wait_ms:.0f} ms)", "backoff")
            link = self._idle_link(deadline.until_s)
            if link is not None:
                return link
            self._n_links += 1
        return self._connect(deadline)

    def give_back(self, link: Link) -> None:
        """After all its answers were received."""
        with self._lock:
            self._breaker.succeeded()
            if self._is_closed or self._is_retired:
                link.close()
                self._n_links -= 1
            else:
                self._idle.append(link)  # the one used last is used next: those not needed fall idle
            self._lock.notify()

    def fail(self, link: Link, error: ServerError) -> None:
        """It is closed; and nobody asks for a while."""
        link.close()
        self.drop()
        self.failed(error)

    def replace(self, link: Link, deadline: Deadline) -> Link:
        """A new one for one that broke while it was idle, which is no failure yet. Raises ServerError."""
        link.close()
        return self._connect(deadline)

    def drop(self) -> None:
        """One link is gone."""
        with self._lock:
            self._n_links -= 1
            self._lock.notify()

    def failed(self, error: ServerError) -> None:
        with self._lock:
            self.words = str(error)
            self._has_failed = True
            self._breaker.failed()

    def retire(self) -> None:
        """Keeps no idle link: the node holds nothing any more, or nothing yet. It may be asked still."""
        self._is_retired = True
        self._close_idle()

    def close(self) -> None:
        """Ends all links, those in use when they are given back; nobody may ask any more."""
        self._is_closed = True
        self._close_idle()

    def _close_idle(self) -> None:
        with self._lock:
            for link in self._idle:
                link.close()
            self._n_links -= len(self._idle)
            self._idle.clear()
            self._lock.notify_all()

    def _idle_link(self, until_s: float) -> Link | None:
        """None: one may be made. REQUIRES: the lock is held."""
        while True:
            while self._idle:
                link = self._idle.pop()
                if link.is_silent():
                    return link
                self._counts.stale += 1
                self._n_links -= 1
                link.close()
            if self._n_links < self._settings.connections_max:
                return None
            left_s = until_s - time.monotonic()
            if left_s <= 0 or not self._lock.wait(left_s):
                self._counts.crowded += 1
                raise ServerError(
                    f"{self.address}: expected a free connection in time, got all "
                    f"{self._settings.connections_max} in use (connections_max)",
                    "busy",
                )

    def _connect(self, deadline: Deadline) -> Link:
        """REQUIRES: the link to be is counted."""
        from kvatlas.index.remote.connection.links.link import Link  # redis-py is an extra

        try:
            link = Link(self.address, self._url, self._settings, deadline.hard_until_s)
        except BaseException as error:
            self.drop()
            if isinstance(error, ServerError):
                self.failed(error)
            raise
        with self._lock:
            self._counts.connects += 1
            self._counts.reconnects += self._has_failed
        return link
