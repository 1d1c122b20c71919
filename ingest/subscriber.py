"""What model servers publish over ZeroMQ, handed to an atlas as it arrives."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol

import msgspec
import zmq
from zmq.utils.monitor import recv_monitor_message

from kvatlas.index.errors import ConfigError, KvatlasError

_POLL_MS = 50
_BURST_MESSAGES = 256
_NAMED_TOPIC = b"kv@"
_FRAMES = 3
_SEQUENCE_BYTES = 8


class BatchSink(Protocol):
    """What takes the batches: an `Atlas`."""

    def ingest(self, topic: bytes, seq: int, payload: bytes) -> None: ...


class SubscriberStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What one subscriber has received so far."""

    connections: int
    """Publishers connected right now."""
    batches: int
    """Handed to the atlas."""
    payload_bytes: int
    """Of those batches."""
    bad_frames: int
    """Messages that were not topic, sequence number and payload."""
    bad_sequence: int
    """Messages whose sequence number was not 8 bytes."""
    refused: int
    """Batches that the atlas raised a KvatlasError for."""


class Subscriber:
    """A SUB socket and a thread that drains it into an atlas.

    It connects to publishers, or with `bind=True` listens for publishers that dial. Live events
    only: what was published before the connection stood, or dropped beyond `messages_max`, is not
    asked for again; the atlas counts what is missing. One thread calls `ingest`; the methods may be
    called from any thread.

    Raises ConfigError when an endpoint cannot be used.
    """

    def __init__(
        self,
        atlas: BatchSink,
        endpoints: Sequence[str],
        *,
        bind: bool = False,
        unnamed_topic: bytes = b"",
        messages_max: int = 100_000,
        message_bytes_max: int = 64 << 20,
    ) -> None:
        """`unnamed_topic` stands in for every topic that is not of the form `kv@<pod>@<model>`.

        At most `messages_max` messages wait per publisher, ZeroMQ drops the newer ones beyond that.
        A publisher that sends a frame of more than `message_bytes_max` bytes is disconnected.
        """
        self._atlas = atlas
        self._unnamed_topic = unnamed_topic
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._counts: Counter[str] = Counter()
        self._connections: Counter[str] = Counter()
        self._failure: BaseException | None = None
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.set(zmq.RCVHWM, messages_max)
        self._socket.set(zmq.MAXMSGSIZE, message_bytes_max)
        # To connect, names may resolve either way; bound to an IPv4 address, it would name itself in IPv6.
        self._socket.set(zmq.IPV6, not bind or any("[" in endpoint for endpoint in endpoints))
        self._socket.subscribe(b"")
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        )
        self._bind = bind
        for endpoint in endpoints:
            self._open(endpoint)
        self.endpoint = self._socket.get_string(zmq.LAST_ENDPOINT)
        """The last endpoint opened, with the port that the system chose where it was left open."""
        self._thread = threading.Thread(target=self._run, name="kvatlas-subscriber", daemon=True)

    def _open(self, endpoint: str) -> None:
        try:
            (self._socket.bind if self._bind else self._socket.connect)(endpoint)
        except (zmq.ZMQError, ValueError, TypeError) as error:
            self._close()
            raise ConfigError(
                f"cannot {'bind' if self._bind else 'connect to'} {endpoint!r}: "
                f"expected an endpoint such as 'tcp://10.0.0.9:5557' ({error})"
            ) from error

    def start(self) -> Subscriber:
        """Start draining; returns itself."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop draining and close the socket; what still waits in it is dropped. Twice is fine.

        Raises what ended the thread early, if something that is no KvatlasError came from `ingest`.
        """
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._close()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def statistics(self) -> SubscriberStatistics:
        return SubscriberStatistics(
            connections=sum(self._connections.values()),
            batches=self._counts["batches"],
            payload_bytes=self._counts["payload_bytes"],
            bad_frames=self._counts["bad_frames"],
            bad_sequence=self._counts["bad_sequence"],
            refused=self._counts["refused"],
        )

    def wait_until(self, condition: Callable[[SubscriberStatistics], bool], timeout_s: float) -> bool:
        """Whether `condition` came true of the statistics within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not condition(self.statistics()):
                left_s = deadline - time.monotonic()
                if left_s <= 0 or self._failure is not None:
                    return False
                self._changed.wait(left_s)
            return True

    def __enter__(self) -> Subscriber:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _close(self) -> None:
        if self._context.closed:
            return
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0)
        self._context.term()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)
        try:
            while not self._stopping.is_set():
                ready = dict(poller.poll(_POLL_MS))
                if self._monitor in ready:
                    self._follow_connection()
                if self._socket in ready:
                    self._drain()
                if ready:
                    with self._changed:
                        self._changed.notify_all()
        except BaseException as error:  # for stop(): in a thread it would only be printed
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _follow_connection(self) -> None:
        message = recv_monitor_message(self._monitor)
        endpoint = bytes(message["endpoint"]).decode("utf-8", "replace")
        if message["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._connections[endpoint] += 1
        elif self._connections[endpoint] > 0:  # a handshake that fails disconnects too
            self._connections[endpoint] -= 1
            if not self._bind:
                self._redial(endpoint)

    def _redial(self, endpoint: str) -> None:
        """Connect anew: ZeroMQ does so by itself, but not after a frame that was too large."""
        while self._drain():  # what came before the break is lost with the old connection
            pass
        self._socket.disconnect(endpoint)
        self._socket.connect(endpoint)

    def _drain(self) -> bool:
        """Take what waits, at most a burst; whether there may be more."""
        for _ in range(_BURST_MESSAGES):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return False
            self._take(frames)
        return True

    def _take(self, frames: list[bytes]) -> None:
        if len(frames) != _FRAMES:
            self._counts["bad_frames"] += 1
            return
        topic, sequence, payload = frames
        if len(sequence) != _SEQUENCE_BYTES:
            self._counts["bad_sequence"] += 1
            return
        if not topic.startswith(_NAMED_TOPIC):
            topic = self._unnamed_topic or topic
        try:
            self._atlas.ingest(topic, int.from_bytes(sequence, "big"), payload)
        except KvatlasError:
            self._counts["refused"] += 1
        else:
            self._counts["batches"] += 1
            self._counts["payload_bytes"] += len(payload)
