"""The round of the receiving thread: sockets that have something, in turns; answers; timers."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable
from functools import partial

import zmq

from kvatlas.index.errors import ConfigError
from kvatlas.ingest.sockets.connection import Socket
from kvatlas.ingest.sockets.curve import Doorkeeper
from kvatlas.ingest.sockets.replay_client import ReplayClient
from kvatlas.ingest.sockets.replay_desk import ReplayDesk
from kvatlas.ingest.sockets.source import Source
from kvatlas.ingest.sockets.subscriber_config import SubscriberConfig
from kvatlas.ingest.sockets.waker import Waker

_LOOK_S = 0.005
"""Under load, what a source wants to ask is looked at so often: it costs a look at each of its workers."""


class Receiver:
    """All live sockets of a subscriber, and what comes of their replays.

    A socket's file descriptor tells that something may have changed, once: so whoever was told of
    stays pending until drained. Idle sockets cost nothing then, be there one or four thousand.
    Used by the receiving thread, or while that does not run.
    """

    def __init__(
        self, context: zmq.Context[Socket], limits: SubscriberConfig, client: ReplayClient, waker: Waker
    ) -> None:
        self.desk = ReplayDesk(client, limits)
        self.sources: list[Source] = []
        self._context = context
        self._limits = limits
        self._pending: dict[Source, None] = {}  # may have something; in turns
        self._unlooked: dict[Source, None] = {}  # may want to ask something
        self._answers_wait = False
        self._doorkeeper: Doorkeeper | None = None
        self._selector = selectors.DefaultSelector()
        self._selector.register(waker, selectors.EVENT_READ, waker.clear)
        self._tick_at_s = 0.0

    def add(self, source: Source) -> None:
        """Open it and receive from it as well. Raises ConfigError when it cannot be opened."""
        curve = source.config.curve
        try:
            if source.config.bind and curve is not None:
                self._keep_door().allow(source.domain, curve.client_keys)  # before anybody knocks
            source.open()
        except ConfigError:
            self._forget(source)
            raise
        self.sources.append(source)
        self._watch(source.socket, partial(self._pending.setdefault, source))
        self._watch(source.monitor.socket, partial(self._follow, source))
        self._follow(source)

    def remove(self, source: Source) -> None:
        """Close it."""
        self.sources.remove(source)
        self._pending.pop(source, None)
        self._unlooked.pop(source, None)
        self.desk.forget(source)
        for socket in (source.socket, source.monitor.socket):
            self._selector.unregister(_descriptor(socket))
        self._forget(source)

    @property
    def is_busy(self) -> bool:
        """Something may wait to be taken."""
        return bool(self._pending) or self._answers_wait

    def step(self) -> bool:
        """One round: a burst of each pending socket and each answer. Waits for something to do.

        Returns whether anything may have changed that others wait for.
        """
        is_busy = self.is_busy
        ready = self._selector.select(0.0 if is_busy else self._wait_s())
        for key, _ in ready:
            key.data()
        now_s = time.monotonic()
        self._drain(now_s)
        self._answers_wait = self.desk.deliver()
        ticks = now_s >= self._tick_at_s
        if ticks:
            self._tick(now_s)
        return is_busy or ticks or bool(ready)

    def close(self) -> None:
        """Close all; `sources` still tells what has come."""
        for source in self.sources:
            source.close()
        if self._doorkeeper is not None:
            self._doorkeeper.close()
        self._selector.close()

    def _forget(self, source: Source) -> None:
        if self._doorkeeper is not None:
            self._doorkeeper.forget(source.domain)
        source.close()

    def _wait_s(self) -> float:
        wait_s = max(self._tick_at_s - time.monotonic(), 0.0)
        return min(wait_s, _LOOK_S) if self._unlooked else wait_s

    def _drain(self, now_s: float) -> None:
        for source in list(self._pending):
            if not source.drain():
                del self._pending[source]
                self._redial(source, now_s)
            self._unlooked[source] = None
        for source in list(self._unlooked):
            if now_s - source.looked_s >= _LOOK_S or not self._pending:
                self._look(source, now_s)

    def _look(self, source: Source, now_s: float) -> None:
        source.looked_s = now_s
        self._unlooked.pop(source, None)
        self.desk.look(source)

    def _tick(self, now_s: float) -> None:
        self._tick_at_s = now_s + self._limits.tick_s
        for source in self.sources:
            source.tick(now_s)
            if source not in self._pending:
                self._redial(source, now_s)
            self._look(source, now_s)

    def _redial(self, source: Source, now_s: float) -> None:
        if source.redial(now_s):
            self._pending[source] = None  # dialling may have used up what its descriptor had to tell

    def _follow(self, source: Source) -> None:
        source.follow()
        self._pending[source] = None  # drained once more: it may be waiting to be connected anew

    def _watch(self, socket: Socket, ready: Callable[[], object]) -> None:
        self._selector.register(_descriptor(socket), selectors.EVENT_READ, ready)

    def _keep_door(self) -> Doorkeeper:
        if self._doorkeeper is None:
            self._doorkeeper = Doorkeeper(self._context, self._turned_away)
            self._watch(self._doorkeeper.socket, self._doorkeeper.answer)
        return self._doorkeeper

    def _turned_away(self, domain: str) -> None:
        for source in self.sources:
            if source.domain == domain:
                source.turned_away("its key is not among client_keys")


def _descriptor(socket: Socket) -> int:
    return int(socket.get(zmq.FD))
