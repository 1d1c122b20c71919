"""Links over ZeroMQ: one socket a shard's process, one thread for all of them."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import zmq

from kvatlas.actors.link.link import LinkSettings, LinkStatistics
from kvatlas.actors.link.pending import PendingRequests
from kvatlas.actors.orders import LinkKeys
from kvatlas.index.errors import ConfigError
from kvatlas.ingest.sockets.connection import Change, Socket, watched_socket
from kvatlas.ingest.sockets.curve import CurveConfig, encrypt_as_client
from kvatlas.ingest.sockets.descriptors import make_room
from kvatlas.ingest.sockets.waker import Waker

_NUMBER_BYTES = 8
_IDLE_S = 1.0
_FRAMES = 2
_DESCRIPTORS_PER_LINK = 4
_SOCKETS_MAX = 16_384  # ZeroMQ's own bound would be reached with 340 links

_log = logging.getLogger(__name__)


class SocketLink:
    """A DEALER that asks the `LinkServer` at one endpoint; connects by itself, again and again.

    Made by `SocketLinks.open`. `request`, `statistics` and `close` from any thread, the rest on the
    thread of the links.
    """

    def __init__(
        self,
        context: zmq.Context[Socket],
        endpoint: str,
        keys: LinkKeys,
        settings: LinkSettings,
        do: Callable[[Callable[[], None]], None],
    ) -> None:
        """`do` has the thread of the links do something. Raises ConfigError for no such endpoint or key."""
        self.endpoint = endpoint
        self._pending = PendingRequests(endpoint, settings)
        self._unsent: deque[int] = deque()
        self._do = do
        self.is_closed = False
        self.socket, self.monitor = watched_socket(context, zmq.DEALER)
        try:
            _prepare(self.socket, keys, settings)
            self.socket.connect(endpoint)
        except (zmq.ZMQError, ValueError, TypeError, ConfigError) as error:
            self._release()
            raise ConfigError(
                f"link: expected an endpoint that can be asked, got {endpoint!r}: {error}"
            ) from error

    def request(self, frame: bytes, timeout_s: float) -> Future[bytes]:
        number, future = self._pending.add(frame, timeout_s)
        if number is not None:
            self._unsent.append(number)
            self._do(self._send)
        return future

    def statistics(self) -> LinkStatistics:
        return self._pending.statistics(self.monitor.connections)

    def close(self) -> None:
        self._pending.close()
        self.is_closed = True
        self._do(lambda: None)

    @property
    def events(self) -> int:
        """What to poll the socket for: room as well, when something waits to be sent."""
        return zmq.POLLIN | (zmq.POLLOUT if self._unsent and self.monitor.connections else 0)

    def follow(self) -> None:
        """Take what the monitor tells."""
        for change in self.monitor.changes():
            if change is Change.BROKEN:  # answers to what was sent will not come
                self._pending.fail("the connection broke")
        self._send()

    def exchange(self) -> None:
        """Take what has come, send what there is room for."""
        self._receive()
        self._send()

    def expire(self, now_s: float) -> float:
        """Fail what is too late; when the next one will be."""
        first_s = self._pending.deadline_s()
        if first_s <= now_s:
            self._pending.expire(now_s, self._why_late())
            self._send()  # what nobody waits for any more need not wait either
            first_s = self._pending.deadline_s()
        return first_s

    def _send(self) -> None:
        while self._unsent:
            number = self._unsent[0]
            frame = self._pending.frame(number)
            if frame is not None:
                if not self.monitor.connections:
                    return
                try:
                    self.socket.send_multipart([number.to_bytes(_NUMBER_BYTES, "little"), frame], zmq.NOBLOCK)
                except zmq.Again:
                    return
            self._unsent.popleft()

    def _receive(self) -> None:
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if len(frames) == _FRAMES:
                self._pending.answer(int.from_bytes(frames[0], "little"), frames[1])

    def _why_late(self) -> str:
        if self.monitor.connections:
            return "no answer in time"
        return f"no connection in time: {self.monitor.why or 'nobody there'}"

    def release(self) -> None:
        """Close the socket."""
        self._pending.close()
        self._release()

    def _release(self) -> None:
        self.monitor.close()
        self.socket.close(linger=0)


def _prepare(socket: Socket, keys: LinkKeys, settings: LinkSettings) -> None:
    socket.set(zmq.IMMEDIATE, 1)  # nothing is queued for a connection that is not there
    socket.set(zmq.IPV6, True)
    socket.set(zmq.MAXMSGSIZE, settings.message_bytes_max)
    socket.set(zmq.SNDHWM, settings.in_flight_max)
    socket.set(zmq.RCVHWM, settings.peer_messages_max)
    socket.set(zmq.RECONNECT_IVL, _ms(settings.reconnect_s_min))
    socket.set(zmq.RECONNECT_IVL_MAX, _ms(settings.reconnect_s_max))
    socket.set(zmq.HEARTBEAT_IVL, _ms(settings.heartbeat_s))
    socket.set(zmq.HEARTBEAT_TIMEOUT, _ms(settings.heartbeat_s_max))
    encrypt_as_client(
        socket,
        CurveConfig(
            server_key=keys.server_public,
            public_key=keys.client_public or None,
            secret_key=keys.client_secret or None,
        ),
    )


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


class SocketLinks:
    """Opens links, and drives them all on one thread. Any thread may call it."""

    def __init__(self, keys: LinkKeys, settings: LinkSettings | None = None) -> None:
        self._keys = keys
        self._settings = settings or LinkSettings()
        self._context: zmq.Context[Socket] = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, _SOCKETS_MAX)
        self._links: list[SocketLink] = []
        self._polled: dict[SocketLink, int] = {}  # the events that each is polled for
        self._errands: deque[Callable[[], None]] = deque()
        self._poller = zmq.Poller()
        self._waker = Waker()
        self._poller.register(self._waker, zmq.POLLIN)
        self._lock = threading.Lock()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="links", daemon=True)
        self._thread.start()

    def open(self, endpoint: str) -> SocketLink:
        """Connects by and by. Raises ConfigError for what is no endpoint, or without room for a socket."""
        with self._lock:
            if self._closing:
                raise ConfigError("links: expected some that are open, got closed ones")
            make_room(_DESCRIPTORS_PER_LINK * (len(self._links) + 1))
            link = SocketLink(self._context, endpoint, self._keys, self._settings, self._do)
            self._do(lambda: self._add(link))
        return link

    def close(self) -> None:
        """Close all links. Twice is fine."""
        with self._lock:
            self._closing = True
        self._waker.wake()
        if threading.current_thread() is not self._thread:  # garbage is collected in any thread, this one too
            self._thread.join()

    def _do(self, errand: Callable[[], None]) -> None:
        self._errands.append(errand)
        self._waker.wake()

    def _add(self, link: SocketLink) -> None:
        self._links.append(link)
        self._poller.register(link.monitor.socket, zmq.POLLIN)
        self._poll(link)

    def _run(self) -> None:
        try:
            wait_ms = 0
            while not self._closing:
                self._step({ready for ready, _ in self._poller.poll(wait_ms)})
                now_s = time.monotonic()
                wait_s = min((link.expire(now_s) for link in self._links), default=now_s + _IDLE_S) - now_s
                wait_ms = round(min(max(0.0, wait_s), _IDLE_S) * 1000) + 1
        except BaseException:
            _log.exception("the thread of the links has ended")
            raise
        finally:
            self._end()

    def _step(self, ready: set[Any]) -> None:
        if self._waker.fileno() in ready:
            self._waker.clear()
        while self._errands:
            self._errands.popleft()()
        for link in [link for link in self._links if link.is_closed]:
            self._remove(link)
        for link in self._links:
            if link.monitor.socket in ready:
                link.follow()
            if link.socket in ready:
                link.exchange()
            if self._polled[link] != link.events:
                self._poll(link)

    def _poll(self, link: SocketLink) -> None:
        self._polled[link] = link.events
        self._poller.register(link.socket, link.events)

    def _remove(self, link: SocketLink) -> None:
        self._links.remove(link)
        del self._polled[link]
        for socket in (link.socket, link.monitor.socket):
            self._poller.unregister(socket)
        link.release()

    def _end(self) -> None:
        with self._lock:
            self._closing = True
        while self._errands:
            self._errands.popleft()()
        for link in self._links:
            link.release()
        self._links.clear()
        self._context.destroy(linger=0)
        self._waker.close()
