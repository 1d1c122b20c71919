"""The live sockets of a recorder. They belong to its receiving thread."""

from __future__ import annotations

from collections.abc import Callable

import zmq

from kvatlas.index.errors import ConfigError
from kvatlas.ingest.sockets.connection import Change, Socket, watched_socket

Keep = Callable[[int, list[bytes]], object]
"""Takes a source's number and a message of it."""

_BURST_MESSAGES = 256
_SEQUENCE_BYTES = 8
_LIVE_FRAMES = 3


class LiveSource:
    """A SUB socket that dials one publisher, or listens for any; and who is connected to it.

    Raises ConfigError when the endpoint cannot be used.
    """

    def __init__(
        self,
        context: zmq.Context[Socket],
        number: int,
        endpoint: str,
        *,
        bind: bool,
        messages_max: int,
        message_bytes_max: int,
    ) -> None:
        self.number = number
        self._bind = bind
        self.socket, self.monitor = watched_socket(context, zmq.SUB)
        self.socket.set(zmq.RCVHWM, messages_max)
        self.socket.set(zmq.MAXMSGSIZE, message_bytes_max)
        # To connect, names may resolve either way; bound to an IPv4 address, it would name itself in IPv6.
        self.socket.set(zmq.IPV6, not bind or "[" in endpoint)
        self.socket.subscribe(b"")
        try:
            (self.socket.bind if bind else self.socket.connect)(endpoint)
        except (zmq.ZMQError, ValueError, TypeError) as error:
            self.close()
            raise unusable("bind" if bind else "connect to", endpoint, error) from error
        self.endpoint = self.socket.get_string(zmq.LAST_ENDPOINT) if bind else endpoint
        """With the port that the system chose where it was left open."""
        self.first_seen: int | None = None
        """Sequence number of the first live message, if that had one."""

    @property
    def connections(self) -> int:
        return self.monitor.connections

    def drain(self, keep: Keep) -> bool:
        """Takes what waits, at most a burst; whether there may be more."""
        for _ in range(_BURST_MESSAGES):
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return False
            if self.first_seen is None and len(frames) == _LIVE_FRAMES and len(frames[1]) == _SEQUENCE_BYTES:
                self.first_seen = int.from_bytes(frames[1], "big")
            keep(self.number, frames)
        return True

    def follow_connection(self, keep: Keep) -> None:
        """Takes what the monitor tells."""
        for change in self.monitor.changes():
            if change is Change.BROKEN and not self._bind:
                self._redial(keep)

    def _redial(self, keep: Keep) -> None:
        """Connect anew: ZeroMQ does so by itself, but not after a frame that was too large."""
        while self.drain(keep):  # what came before the break is lost with the old connection
            pass
        self.socket.disconnect(self.endpoint)
        self.socket.connect(self.endpoint)

    def close(self) -> None:
        self.monitor.close()
        self.socket.close(linger=0)


def unusable(verb: str, endpoint: str, error: Exception) -> ConfigError:
    """What is said of an endpoint that ZeroMQ does not take."""
    return ConfigError(
        f"cannot {verb} {endpoint!r}: expected an endpoint such as 'tcp://10.0.0.9:5557' ({error})"
    )
