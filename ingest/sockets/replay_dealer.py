"""One question to a replay socket: a DEALER, of which nothing may be lost by waiting."""

from __future__ import annotations

import zmq

from kvatlas.index.errors import ConfigError, InputError
from kvatlas.ingest.sockets.connection import Change, Socket, watched_socket
from kvatlas.ingest.sockets.curve import encrypt_as_client
from kvatlas.ingest.sockets.replay_answer import SEQUENCE_BYTES, Answer, parse_reply
from kvatlas.ingest.sockets.subscriber_config import SubscriberConfig

_BURST_MESSAGES = 256
_FRAMES_MAX = 4


class ReplayDealer:
    """Asks when it is made, and drains what is answered. Used by one thread.

    Raises ConfigError when it cannot ask.
    """

    def __init__(
        self, context: zmq.Context[Socket], answer: Answer, limits: SubscriberConfig, now_s: float
    ) -> None:
        self.answer = answer
        self._deadline_s: float | None = now_s + limits.replay_connect_s_max
        self._broken = ""
        self.socket, self.monitor = watched_socket(context, zmq.DEALER)
        # The server drops silently what we leave in its socket, so this is more than it can keep.
        self.socket.set(zmq.RCVHWM, limits.replay_messages_max)
        self.socket.set(zmq.MAXMSGSIZE, limits.message_bytes_max)
        self.socket.set(zmq.IPV6, True)
        try:
            if answer.curve is not None:
                encrypt_as_client(self.socket, answer.curve)
            self.socket.connect(answer.endpoint)
            self.socket.send_multipart([b"", answer.start.to_bytes(SEQUENCE_BYTES, "big")], zmq.NOBLOCK)
        except (zmq.ZMQError, ValueError, TypeError, ConfigError) as error:
            self.close()
            raise ConfigError(f"replay: cannot ask {answer.endpoint!r}: {error}") from error

    def advance(self, room_bytes: int, now_s: float) -> bool:
        """Put what waits into the answer, at most a burst; whether there may be more.

        The answer is cut at `room_bytes`, but not before its first message.
        """
        self._follow()
        try:
            for _ in range(_BURST_MESSAGES):
                try:
                    frames = self._receive()
                except zmq.Again:
                    self._check(now_s)
                    return False
                reply = parse_reply(frames)
                if reply is None:
                    self.answer.is_complete = True
                    return False
                room_bytes -= reply.size_bytes
                if room_bytes < 0 and self.answer.put_bytes:
                    self._cut()
                    return False
                self.answer.put(reply)
        except InputError as error:
            self.answer.was_bad = True
            self.answer.fail(str(error))
            return False
        return True

    def _follow(self) -> None:
        """Take what the monitor tells: after a break nothing more will come."""
        for change in self.monitor.changes():
            self._deadline_s = None
            if change is Change.REFUSED:
                self._broken = self.monitor.why
            elif change is Change.BROKEN:
                self._broken = "the connection broke"

    def _check(self, now_s: float) -> None:
        """When nothing waits: fail the answer where nobody is there, or any more."""
        if self._deadline_s is not None and now_s >= self._deadline_s:
            self._broken = "nobody there"
        if self._broken:
            self.answer.fail(f"replay: {self.answer.endpoint}: {self._broken}")

    def _cut(self) -> None:
        self.answer.was_cut = True
        self.answer.fail(f"replay: cut after {self.answer.put_bytes} bytes, no room for more")

    def close(self) -> None:
        self.monitor.close()
        self.socket.close(linger=0)

    def _receive(self) -> list[bytes]:
        frame = self.socket.recv(zmq.NOBLOCK, copy=False)
        frames = [frame.bytes]
        while frame.more:
            frame = self.socket.recv(zmq.NOBLOCK, copy=False)
            if len(frames) <= _FRAMES_MAX:  # one too many is kept to tell
                frames.append(frame.bytes)
        return frames
