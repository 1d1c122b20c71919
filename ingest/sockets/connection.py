"""What a socket's monitor tells: who is connected, who was turned away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from enum import Enum

import zmq
from zmq.utils.monitor import recv_monitor_message

from kvatlas.index.errors import ConfigError

Socket = zmq.Socket[bytes]

_FAILURES = {
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL): "the other end broke off the handshake",
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): "the other end speaks another protocol, or needs other keys",
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): "the other end refuses our key",
}
_WATCHED = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED
for _event in _FAILURES:
    _WATCHED |= _event
_CLOSE_S_MAX = 1.0


def watched_socket(context: zmq.Context[Socket], kind: int) -> tuple[Socket, ConnectionMonitor]:
    """A new socket that lingers for nobody, and its monitor. Raises ConfigError when there are no more."""
    try:
        socket = context.socket(kind)
    except zmq.ZMQError as error:
        raise ConfigError(f"sockets: expected room for one more: {error}") from error
    socket.set(zmq.LINGER, 0)
    try:
        return socket, ConnectionMonitor(socket)
    except zmq.ZMQError as error:
        socket.close(linger=0)
        raise ConfigError(f"sockets: expected room for the monitor of one more: {error}") from error


class Change(Enum):
    """What has happened to a connection."""

    OPENED = "opened"
    BROKEN = "broken"
    REFUSED = "refused"


class ConnectionMonitor:
    """Follows the connections of one socket. Used by one thread; `socket` is to be polled there."""

    def __init__(self, watched: Socket) -> None:
        self.connections = 0
        self.why = ""
        """Why the last handshake failed."""
        self._failing = 0
        self._watched = watched
        self.socket: Socket = watched.get_monitor_socket(_WATCHED)

    def changes(self) -> Iterator[Change]:
        """What has happened since the last call, in order; `connections` goes along with it."""
        while True:
            try:
                event = int(recv_monitor_message(self.socket, zmq.NOBLOCK)["event"])
            except zmq.Again:
                return
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.connections += 1
                yield Change.OPENED
            elif event in _FAILURES:
                self._failing += 1
                self.why = _FAILURES[event]
                yield Change.REFUSED
            elif event == zmq.EVENT_CLOSED:  # of a listener, or an attempt to connect
                continue
            elif self._failing:  # a disconnect, and a handshake that fails ends in one
                self._failing -= 1
            elif self.connections:
                self.connections -= 1
                yield Change.BROKEN

    def unbind(self, endpoint: str) -> None:
        """Stop listening, and wait until the port is free: ZeroMQ closes it on a thread of its own."""
        self._watched.unbind(endpoint)
        deadline_s = time.monotonic() + _CLOSE_S_MAX
        while (left_s := deadline_s - time.monotonic()) > 0 and self.socket.poll(int(left_s * 1000) + 1):
            if recv_monitor_message(self.socket)["event"] == zmq.EVENT_CLOSED:
                return

    def close(self) -> None:
        self.connections = 0
        self._watched.disable_monitor()
        self.socket.close(linger=0)
