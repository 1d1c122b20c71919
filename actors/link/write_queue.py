"""Writes that may take long, on a thread of their own; bounded in number and bytes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from kvatlas.actors.link.link import LinkSettings
from kvatlas.actors.link.messages import session_bytes

Envelope = list[bytes]


class WriteQueue:
    """Answers frames in their order. `put` and `done` by one thread, `close` after that has ended."""

    def __init__(
        self, answer: Callable[[bytes], bytes], tell: Callable[[], None], settings: LinkSettings
    ) -> None:
        """`answer` must not raise; `tell` is called when `done` has something."""
        self._answer = answer
        self._tell = tell
        self._settings = settings
        self._waiting: deque[tuple[Envelope, bytes]] = deque()
        self._done: deque[tuple[Envelope, bytes]] = deque()
        self._bytes = 0  # of what waits or is being done
        self._sessions: deque[bytes] = deque()  # the same, in order
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="shard writes", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """How many wait or are being done."""
        return len(self._sessions)

    def holds(self, session: bytes) -> bool:
        """Whether a write of this session waits or is being done."""
        with self._changed:
            return session in self._sessions

    def put(self, envelope: Envelope, frame: bytes) -> bool:
        """Whether there was room."""
        with self._changed:
            too_many = len(self) >= self._settings.queue_max
            if too_many or (len(self) and self._bytes + len(frame) > self._settings.queue_bytes_max):
                return False
            self._sessions.append(session_bytes(frame))
            self._bytes += len(frame)
            self._waiting.append((envelope, frame))
            self._changed.notify()
            return True

    def done(self) -> list[tuple[Envelope, bytes]]:
        """Answers since the last call."""
        with self._changed:
            answers = list(self._done)
            self._done.clear()
            return answers

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if self._closing:
                    return
                envelope, frame = self._waiting.popleft()
            reply = self._answer(frame)
            with self._changed:
                self._sessions.popleft()
                self._bytes -= len(frame)
                self._done.append((envelope, reply))
            self._tell()
