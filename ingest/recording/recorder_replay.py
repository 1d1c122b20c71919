"""What a server's replay socket still has, asked for by a recorder."""

from __future__ import annotations

import time
from enum import Enum

import zmq

from kvatlas.ingest.recording.recorder_live import Keep, LiveSource, unusable
from kvatlas.ingest.sockets.connection import Socket
from kvatlas.ingest.sockets.replay_answer import END_OF_REPLAY, SEQUENCE_BYTES

_BURST_MESSAGES = 256
_REPLY_FRAMES_MIN = 3


class ReplayState(Enum):
    """How far a question is."""

    WAITING = "waiting"
    """For the live source to stand, so that nothing falls between the two."""
    ANSWERING = "answering"
    COMPLETE = "complete"
    """An answer without a hole has come to its end."""
    INCOMPLETE = "incomplete"
    """No such answer came, however often it was asked."""


class ReplayQuestion:
    """Asks for all that a server still has, until the answer has no hole.

    It asks again, from the first number missing, when an answer has a hole, stays away for `timeout_s`,
    or ends before the first live message; `attempts` times in all. Replies behind a hole are left out,
    so that numbers ascend over all answers; those of the last attempt are kept as they are. It belongs
    to the recorder's receiving thread.
    Raises ConfigError when the endpoint cannot be used.
    """

    def __init__(
        self,
        context: zmq.Context[Socket],
        number: int,
        endpoint: str,
        live: LiveSource | None,
        *,
        timeout_s: float,
        attempts: int,
        message_bytes_max: int,
    ) -> None:
        self.state = ReplayState.WAITING
        self.left_out = 0
        """Replies behind a hole."""
        self._number = number
        self._live = live
        self._timeout_s = timeout_s
        self._attempts_left = attempts
        self._wanted = 0
        self._knows_wanted = False  # the first reply to the first question says where the buffer begins
        self._has_hole = False
        self._deadline_s = time.monotonic() + timeout_s
        self.socket = context.socket(zmq.DEALER)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.RCVHWM, 0)  # at a limit the server's ROUTER drops replies and says nothing
        self.socket.set(zmq.MAXMSGSIZE, message_bytes_max)
        self.socket.set(zmq.IPV6, True)
        try:
            self.socket.connect(endpoint)
        except (zmq.ZMQError, ValueError, TypeError) as error:
            self.close()
            raise unusable("connect to", endpoint, error) from error

    def advance(self) -> bool:
        """Asks, or gives up, when it is time to; whether it did."""
        state, attempts_left = self.state, self._attempts_left
        self._advance()
        return (state, attempts_left) != (self.state, self._attempts_left)

    def _advance(self) -> None:
        is_late = time.monotonic() >= self._deadline_s
        if self.state is ReplayState.WAITING:
            if self._live is None or self._live.connections or is_late:
                self._ask()
        elif self.state is ReplayState.ANSWERING:
            if is_late:
                self._ask()
        elif self.state is ReplayState.COMPLETE and self._live is not None:
            first = self._live.first_seen
            if first is not None:
                self._live = None  # the two meet here, or with the next answer
                if first > self._wanted:
                    self._ask()

    def drain(self, keep: Keep) -> None:
        """Takes what waits, at most a burst."""
        for _ in range(_BURST_MESSAGES):
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._take(frames, keep)

    def close(self) -> None:
        self.socket.close(linger=0)

    def _ask(self) -> None:
        if not self._attempts_left:
            self.state = ReplayState.INCOMPLETE
            return
        self._attempts_left -= 1
        self._has_hole = False
        self.state = ReplayState.ANSWERING
        self._deadline_s = time.monotonic() + self._timeout_s
        self.socket.send_multipart([b"", self._wanted.to_bytes(SEQUENCE_BYTES, "big")])

    def _take(self, frames: list[bytes], keep: Keep) -> None:
        sequence = frames[-2] if len(frames) >= _REPLY_FRAMES_MIN else b""
        if sequence == END_OF_REPLAY:
            keep(self._number, frames)
            self._end()
        elif len(sequence) == SEQUENCE_BYTES:
            self._deadline_s = time.monotonic() + self._timeout_s
            self._take_batch(int.from_bytes(sequence, "big"), frames, keep)
        else:
            keep(self._number, frames)

    def _take_batch(self, sequence: int, frames: list[bytes], keep: Keep) -> None:
        if self._knows_wanted and sequence > self._wanted and self._attempts_left:
            self._has_hole = True
        if self._has_hole:
            self.left_out += 1
            return
        self._knows_wanted = True
        self._wanted = max(self._wanted, sequence + 1)
        keep(self._number, frames)

    def _end(self) -> None:
        if self.state is not ReplayState.ANSWERING:  # of an answer that had been given up
            return
        if self._has_hole:
            self._ask()
        else:
            self.state = ReplayState.COMPLETE
