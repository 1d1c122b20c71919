"""Shares the loads of one router with all others of its cluster: each publishes, all listen to all.

What a choice has reserved is known to every router some milliseconds later. Sums are told as they
change, at most every `share_s`, and all of them every `whole_s` and to whoever begins to listen: a
frame that is lost costs others the truth for so long. A router that is silent for `silent_s_max` has
nothing reserved any more. No clock is compared with another.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable
from typing import Protocol

import msgspec
import zmq

from kvatlas.actors.loads.peers import Book, Peers, rows_of
from kvatlas.actors.loads.sums import FRAME_BYTES_MAX, ROWS_MAX, LoadSums, encode_sums
from kvatlas.actors.orders import LinkKeys, RouterAt
from kvatlas.index.errors import ConfigError
from kvatlas.ingest.sockets.connection import Socket
from kvatlas.ingest.sockets.curve import CurveConfig, Doorkeeper, encrypt_as_client, encrypt_as_server
from kvatlas.ingest.sockets.waker import Waker

_DOMAIN = "router"
_BURST_FRAMES = 256
_ENDED_S_MAX = 0.2
_CONNECT_EVERY_S = 0.1
_log = logging.getLogger(__name__)


class SharedFleet(Protocol):
    """What is known of the cluster just now; never waits."""

    @property
    def routers(self) -> Iterable[RouterAt]: ...
    @property
    def known_pods(self) -> Collection[str]:
        """Those that can be chosen."""
        ...


class SharingSettings(msgspec.Struct, frozen=True, kw_only=True):
    """When routers tell each other what, in seconds."""

    share_s: float = 0.005
    """Between two frames while sums change."""
    share_each_s: float = 0.0005
    """For each peer: with many of them, frames are so much rarer."""
    idle_s: float = 0.01
    """Between two looks for changes while there are none."""
    whole_s: float = 1.0
    """Between two frames with all sums."""
    silent_s_max: float = 3.0
    peer_frames_max: int = 1024
    """That wait for one peer; more are dropped."""


class SharingStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """How loads are shared."""

    endpoint: str
    peers: int
    """Routers that are heard."""
    connected: int
    """Endpoints that are listened to."""
    counts: dict[str, int]
    failure: str | None
    """Why the thread has ended before its time; loads of others are not known any more then."""


class LoadSharing:
    """One thread, one socket that publishes, one that listens to all peers. Runs until `close`.

    `statistics` and `close` from any thread.
    """

    def __init__(
        self,
        book: Book,
        number: int,
        keys: LinkKeys,
        fleet: SharedFleet,
        *,
        host: str = "127.0.0.1",
        settings: SharingSettings | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`number`: of this life of the process. `keys`: those of readers; who has them is let in.
        `fleet`: asked by the thread. `host`: where to listen. Raises ConfigError when it cannot."""
        self.number = number
        self._book = book
        self._fleet = fleet
        self._settings = settings or SharingSettings()
        self._clock_s = clock_s
        self._peers = Peers(book, number, self._settings.silent_s_max)
        self._counts = self._peers.counts
        self._context: zmq.Context[Socket] = zmq.Context()
        self._waker = Waker()
        self._connected: dict[str, float] = {}
        """Endpoints listened to, and when each was last named."""
        self._sent = 0
        self._whole_at_s = self._share_at_s = self._connect_at_s = 0.0
        self._stopping = False
        self.failure: BaseException | None = None
        """What has ended the thread before its time."""
        self._door = Doorkeeper(self._context, lambda _domain: self._counts.update(("strangers",)))
        self._door.allow(_DOMAIN, (keys.client_public,))
        self._publisher = self._context.socket(zmq.XPUB)
        self._listener = self._context.socket(zmq.SUB)
        try:
            self.endpoint = self._open(keys, host)
        except (zmq.ZMQError, ValueError, TypeError, ConfigError) as error:
            self._release()
            raise ConfigError(
                f"router: expected an address to publish loads on, got {host!r}: {error}"
            ) from error
        self._thread = threading.Thread(target=self._run, name=f"loads {self.endpoint}", daemon=True)
        self._thread.start()

    def statistics(self) -> SharingStatistics:
        return SharingStatistics(
            endpoint=self.endpoint,
            peers=len(self._peers),
            connected=len(self._connected),
            counts=dict(self._counts),
            failure=None if self.failure is None else repr(self.failure),
        )

    def close(self) -> None:
        """Tell the others that nothing is reserved here any more, and end. Twice is fine."""
        self._stopping = True
        self._waker.wake()
        if self._thread is not threading.current_thread():  # whoever holds it may be freed anywhere
            self._thread.join()

    def _open(self, keys: LinkKeys, host: str) -> str:
        for socket in (self._publisher, self._listener):
            socket.set(zmq.LINGER, round(_ENDED_S_MAX * 1000))
            socket.set(zmq.IPV6, ":" in host)
            socket.set(zmq.MAXMSGSIZE, FRAME_BYTES_MAX)
            socket.set(zmq.SNDHWM, self._settings.peer_frames_max)
            socket.set(zmq.RCVHWM, self._settings.peer_frames_max)
        self._publisher.set(zmq.XPUB_VERBOSE, 1)  # told of everyone who begins to listen
        encrypt_as_server(self._publisher, CurveConfig(secret_key=keys.client_secret or None), _DOMAIN)
        # All routers have the keys of readers: each is the others' server and client by turns.
        curve = CurveConfig(
            server_key=keys.client_public, public_key=keys.client_public, secret_key=keys.client_secret
        )
        encrypt_as_client(self._listener, curve)
        self._listener.set(zmq.RECONNECT_IVL, 50)
        self._listener.set(zmq.RECONNECT_IVL_MAX, 1000)
        self._listener.set(zmq.SUBSCRIBE, b"")
        self._publisher.bind(f"tcp://[{host}]:*" if ":" in host else f"tcp://{host}:*")
        return self._publisher.get_string(zmq.LAST_ENDPOINT)

    # The thread.

    def _run(self) -> None:
        poller = zmq.Poller()
        for waited in (self._door.socket, self._publisher, self._listener, self._waker):
            poller.register(waited, zmq.POLLIN)
        try:
            while not self._stopping:
                due_s = min(self._share_at_s, self._whole_at_s) - self._clock_s()
                ready = {waited for waited, _ in poller.poll(max(0, round(due_s * 1000 + 0.5)))}
                if self._door.socket in ready:
                    self._door.answer()
                if self._waker.fileno() in ready:
                    self._waker.clear()
                if self._publisher in ready:
                    self._greet()
                if self._listener in ready:
                    self._listen()
                now_s = self._clock_s()
                if now_s >= self._connect_at_s:
                    self._connect_at_s = now_s + _CONNECT_EVERY_S
                    self._connect(now_s)
                self._tell(now_s)
            self._send(whole=True, leaves=True)
        except BaseException as error:  # for whoever asks: in a thread it would only be printed
            self.failure = error
            _log.exception("loads are not shared any more")
        finally:
            self._peers.drop_all()
            self._release()

    def _greet(self) -> None:
        """Somebody begins to listen: it is told everything."""
        while True:
            try:
                asked = self._publisher.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            if asked[:1] == b"\x01":
                self._whole_at_s = min(self._whole_at_s, self._clock_s() + self._settings.share_s)

    def _listen(self) -> None:
        pods, now_s = self._fleet.known_pods, self._clock_s()
        for _ in range(_BURST_FRAMES):
            try:
                frame = self._listener.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._peers.take(frame, pods, now_s)

    def _connect(self, now_s: float) -> None:
        """Listen to all routers that are named; let go of others when they have not been for long.

        A directory that was lost names nobody until it has heard of them: while others are heard, all
        are kept then.
        """
        wanted = {at.endpoint for at in self._fleet.routers if at.number != self.number}
        for endpoint in wanted:
            if endpoint not in self._connected:
                try:
                    self._listener.connect(endpoint)
                except zmq.ZMQError:
                    self._counts["bad_endpoints"] += 1
            self._connected[endpoint] = now_s
        if not wanted and len(self._peers):
            return
        for endpoint, named_s in list(self._connected.items()):
            if now_s - named_s > self._settings.silent_s_max:
                del self._connected[endpoint]
                with contextlib.suppress(zmq.ZMQError):
                    self._listener.disconnect(endpoint)

    def _tell(self, now_s: float) -> None:
        settings = self._settings
        if now_s >= self._whole_at_s:
            self._peers.expire(now_s)
            self._whole_at_s = now_s + settings.whole_s
            self._share_at_s = now_s + settings.share_s
            self._send(whole=True)
        elif now_s >= self._share_at_s:
            has_changed = self._send(whole=False)
            pause_s = settings.share_s if has_changed else settings.idle_s
            self._share_at_s = now_s + max(pause_s, settings.share_each_s * len(self._peers))

    def _send(self, *, whole: bool, leaves: bool = False) -> bool:
        """Publish sums; false where none have changed."""
        changed = self._book.changed()
        sums = self._book.own() if whole else changed
        if not whole and not len(sums[0]):
            return False
        rows = () if leaves else rows_of(self._book, sums)
        self._counts["rows_left_out"] += max(0, len(rows) - ROWS_MAX)
        self._sent += 1
        frame = encode_sums(LoadSums(self.number, self._sent, whole, leaves, rows[:ROWS_MAX]))
        try:
            self._publisher.send(frame, zmq.NOBLOCK)
            self._counts["sent_whole" if whole else "sent"] += 1
        except zmq.Again:
            self._counts["not_sent"] += 1
        return True

    def _release(self) -> None:
        self._publisher.close()
        self._listener.close(linger=0)
        self._door.close()
        self._context.destroy(linger=round(_ENDED_S_MAX * 1000))
        self._waker.close()
