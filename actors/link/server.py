"""The socket of a shard: who has the cluster's client key may ask, everybody is answered.

One thread receives, lets in, answers; short requests are handled there. Writes that may take long,
and those of the same session that come behind them, have a second thread, so that a fetch never waits
for a load.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from types import TracebackType

import zmq

from kvatlas.actors.link.link import LinkSettings
from kvatlas.actors.link.messages import is_export, is_fetch, refused, session_bytes
from kvatlas.actors.link.write_queue import WriteQueue
from kvatlas.actors.orders import LinkKeys
from kvatlas.index.errors import ConfigError
from kvatlas.ingest.sockets.connection import Change, Socket, watched_socket
from kvatlas.ingest.sockets.curve import CurveConfig, Doorkeeper, encrypt_as_server
from kvatlas.ingest.sockets.waker import Waker

_DOMAIN = "shard"
_BURST_MESSAGES = 64
_FRAMES = 3
_NUMBER_BYTES = 8

_log = logging.getLogger(__name__)


class LinkServer:
    """A ROUTER that has `handle` answer each frame. Runs from when it is made until `close`."""

    def __init__(
        self,
        handle: Callable[[bytes], bytes],
        keys: LinkKeys,
        address: str = "tcp://127.0.0.1:*",
        settings: LinkSettings | None = None,
    ) -> None:
        """`handle` may be called by two threads. Raises ConfigError when it cannot listen."""
        self._handle = handle
        self._settings = settings or LinkSettings()
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()  # both threads count
        self.failure: BaseException | None = None
        """What has ended a thread before its time."""
        self._context: zmq.Context[Socket] = zmq.Context()
        self._waker = Waker()
        self._stopping = False
        self._door = Doorkeeper(self._context, lambda _domain: self._count("strangers"))
        self._door.allow(_DOMAIN, (keys.client_public,))
        self._socket, self._monitor = watched_socket(self._context, zmq.ROUTER)
        try:
            self.endpoint = _listen(self._socket, keys, address, self._settings)
        except ConfigError:
            self._release()
            raise
        self._writes = WriteQueue(self._answer, self._waker.wake, self._settings)
        self._thread = threading.Thread(target=self._run, name=f"shard {self.endpoint}", daemon=True)
        self._thread.start()

    def statistics(self) -> dict[str, int]:
        """What came and what was turned away."""
        names = (
            "requests",
            "bad_frames",
            "busy",
            "broken",
            "answers_dropped",
            "strangers",
            "handshakes_failed",
        )
        counts = {name: self._counts[name] for name in names}
        return {**counts, "connections": self._monitor.connections, "queued": len(self._writes)}

    def close(self) -> None:
        """Stop; what waits is dropped. Twice is fine."""
        self._stopping = True
        self._waker.wake()
        self._thread.join()
        self._writes.close()
        if not self._context.closed:
            self._release()

    def __enter__(self) -> LinkServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self) -> None:
        poller = zmq.Poller()
        for waited in (self._socket, self._door.socket, self._monitor.socket, self._waker):
            poller.register(waited, zmq.POLLIN)
        try:
            while not self._stopping:
                ready = {waited for waited, _ in poller.poll()}
                if self._door.socket in ready:
                    self._door.answer()
                if self._monitor.socket in ready:
                    self._follow()
                if self._waker.fileno() in ready:
                    self._waker.clear()
                    for envelope, reply in self._writes.done():
                        self._send(envelope, reply)
                if self._socket in ready:
                    self._receive()
        except BaseException as error:  # for whoever supervises: in a thread it would only be printed
            _log.exception("the thread of a shard's socket has ended")
            self.failure = error

    def _follow(self) -> None:
        for change in self._monitor.changes():
            if change is Change.REFUSED:
                self._count("handshakes_failed")

    def _receive(self) -> None:
        for _ in range(_BURST_MESSAGES):
            try:
                frame = self._socket.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            frames = [frame.bytes]
            while frame.more:
                frame = self._socket.recv(zmq.NOBLOCK, copy=False)
                if len(frames) <= _FRAMES:  # one too many is kept to tell
                    frames.append(frame.bytes)
            self._take(frames)

    def _take(self, frames: list[bytes]) -> None:
        if len(frames) != _FRAMES or len(frames[1]) != _NUMBER_BYTES:
            self._count("bad_frames")
            return
        self._count("requests")
        envelope, frame = frames[:2], frames[2]
        is_short = len(frame) <= self._settings.inline_bytes_max and not is_export(frame)
        if is_fetch(frame) or (is_short and not self._writes.holds(session_bytes(frame))):
            self._send(envelope, self._answer(frame))
        elif not self._writes.put(envelope, frame):
            self._count("busy")
            self._send(envelope, refused("busy: expected room in the queue of writes, it is full"))

    def _answer(self, frame: bytes) -> bytes:
        try:
            return self._handle(frame)
        except Exception as error:  # one request must not end the service of all
            _log.exception("a request to a shard has failed")
            self._count("broken")
            return refused(f"expected an answer, the shard failed with {type(error).__name__}")

    def _send(self, envelope: list[bytes], reply: bytes) -> None:
        try:
            self._socket.send_multipart([*envelope, reply], zmq.NOBLOCK)
        except zmq.ZMQError:  # gone, or does not read its answers
            self._count("answers_dropped")

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1

    def _release(self) -> None:
        self._monitor.close()
        self._socket.close(linger=0)
        self._door.close()
        self._context.destroy(linger=0)
        self._waker.close()


def _listen(socket: Socket, keys: LinkKeys, address: str, settings: LinkSettings) -> str:
    socket.set(zmq.ROUTER_MANDATORY, 1)  # or answers for nobody would vanish uncounted
    socket.set(zmq.IPV6, "[" in address)
    socket.set(zmq.MAXMSGSIZE, settings.message_bytes_max)
    socket.set(zmq.RCVHWM, settings.peer_messages_max)
    socket.set(zmq.SNDHWM, settings.peer_messages_max)
    socket.set(zmq.HEARTBEAT_IVL, round(settings.heartbeat_s * 1000))
    socket.set(zmq.HEARTBEAT_TIMEOUT, round(settings.heartbeat_s_max * 1000))
    encrypt_as_server(socket, CurveConfig(secret_key=keys.server_secret or None), _DOMAIN)
    try:
        socket.bind(address)
    except (zmq.ZMQError, ValueError, TypeError) as error:
        raise ConfigError(f"shard: expected an address to listen on, got {address!r}: {error}") from error
    return socket.get_string(zmq.LAST_ENDPOINT)
