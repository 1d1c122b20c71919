"""Asks replay sockets, on a thread of its own: what a server answers is lost where nobody reads it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

import zmq

from kvatlas.index.errors import ConfigError
from kvatlas.ingest.sockets.connection import Socket
from kvatlas.ingest.sockets.replay_answer import Answer
from kvatlas.ingest.sockets.replay_dealer import ReplayDealer
from kvatlas.ingest.sockets.subscriber_config import SubscriberConfig
from kvatlas.ingest.sockets.waker import Waker

_POLL_MS = 100


class ReplayClient:
    """One thread for all questions; a DEALER each.

    All answers together hold at most `replay_bytes_max` bytes, and one message each: the one that
    finds no room is cut there. `ask`, `drop`, `start` and `stop` are called by one other thread at a
    time; `arrived` is called by its own, when something has come for whoever takes.
    """

    def __init__(
        self, context: zmq.Context[Socket], limits: SubscriberConfig, arrived: Callable[[], None]
    ) -> None:
        self.failure: BaseException | None = None
        """What ended the thread."""
        self._context = context
        self._limits = limits
        self._arrived = arrived
        self._questions: deque[Answer] = deque()
        self._held: list[Answer] = []  # all that still hold bytes
        self._dealers: list[ReplayDealer] = []
        self._poller = zmq.Poller()
        self._waker = Waker()
        self._poller.register(self._waker, zmq.POLLIN)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kvatlas-replay", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ask(self, answer: Answer) -> None:
        """Have it asked, and answered."""
        self._questions.append(answer)
        self._waker.wake()

    def drop(self, answer: Answer) -> None:
        """Nobody wants it any more."""
        answer.is_dropped = True
        self._waker.wake()

    @property
    def waiting_bytes(self) -> int:
        """Of answers that have come and were not taken yet."""
        return sum(answer.waiting_bytes for answer in self._held if not answer.is_dropped)

    def stop(self) -> None:
        """End the thread and close its sockets. Twice is fine."""
        self._stopping.set()
        self._waker.wake()
        if self._thread.ident is not None:
            self._thread.join()
        self._waker.close()

    def _run(self) -> None:
        is_busy = False
        try:
            while not self._stopping.is_set():
                self._poller.poll(0 if is_busy else _POLL_MS if self._dealers else None)
                self._waker.clear()
                is_busy = self._step()
        except BaseException as error:  # for the receiving thread: here it would only be printed
            self.failure = error
        finally:
            for dealer in self._dealers:
                dealer.close()
            self._arrived()

    def _step(self) -> bool:
        """A burst of each answer; whether there may be more."""
        now_s = time.monotonic()
        while self._questions:
            self._open(self._questions.popleft(), now_s)
        self._held = [answer for answer in self._held if not answer.is_done]
        room_bytes = self._limits.replay_bytes_max - self.waiting_bytes
        is_busy = False
        for dealer in self._dealers.copy():
            answer, put_bytes = dealer.answer, dealer.answer.put_bytes
            if not answer.is_dropped:
                is_busy |= dealer.advance(room_bytes, now_s)
                room_bytes -= answer.put_bytes - put_bytes
            if answer.is_ended or answer.is_dropped:
                self._close(dealer)
            if answer.is_ended or answer.put_bytes > put_bytes:
                self._arrived()
        return is_busy

    def _open(self, answer: Answer, now_s: float) -> None:
        if answer.is_dropped:
            return
        try:
            dealer = ReplayDealer(self._context, answer, self._limits, now_s)
        except ConfigError as error:
            answer.fail(str(error))
            self._arrived()
            return
        self._held.append(answer)
        self._dealers.append(dealer)
        self._poller.register(dealer.socket, zmq.POLLIN)
        self._poller.register(dealer.monitor.socket, zmq.POLLIN)

    def _close(self, dealer: ReplayDealer) -> None:
        self._dealers.remove(dealer)
        self._poller.unregister(dealer.socket)
        self._poller.unregister(dealer.monitor.socket)
        dealer.close()
