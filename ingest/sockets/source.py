"""The live sockets of a subscriber: one per source."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import zmq

from kvatlas.index.errors import ConfigError, KvatlasError
from kvatlas.ingest.sockets.batch_sink import BatchFeed
from kvatlas.ingest.sockets.connection import Change, Socket, watched_socket
from kvatlas.ingest.sockets.curve import encrypt_as_client, encrypt_as_server
from kvatlas.ingest.sockets.source_config import SourceConfig
from kvatlas.ingest.sockets.subscriber_config import SubscriberConfig
from kvatlas.ingest.sockets.subscriber_statistics import SourceStatistics

if TYPE_CHECKING:
    from kvatlas.ingest.sockets.replay_desk import Asked

_FRAMES = 3
_SEQUENCE_BYTES = 8
_NOBLOCK = int(zmq.NOBLOCK)
_SAID_CHARACTERS_MAX = 300

_log = logging.getLogger(__name__)


class Source:
    """A SUB socket that dials one publisher, or listens for any, and the feed that it drives.

    Used by the receiving thread, `statistics` by any. Raises ConfigError without room for its sockets.
    """

    def __init__(
        self,
        context: zmq.Context[Socket],
        number: int,
        config: SourceConfig,
        limits: SubscriberConfig,
        feed: BatchFeed,
    ) -> None:
        self.config = config
        self.domain = f"source-{number}"
        """By which the doorkeeper knows it."""
        self.feed = feed
        self.asked: dict[tuple[int, int], Asked] = {}
        """Its replay requests that wait or are in flight."""
        self.looked_s = 0.0
        """When its requests were last looked at."""
        self._limits = limits
        self._batches = self._payload_bytes = 0
        self._bad_frames = self._bad_sequence = self._refused = self._handshakes_failed = 0
        self._said: dict[str, str] = {}
        self._disturbed_s: float | None = None
        self._is_open = config.bind  # whoever dials is open before it can be heard
        self._is_broken = self._is_given_up = self._listens = False
        self._dialled_s = float("-inf")
        self.socket, self.monitor = watched_socket(context, zmq.SUB)
        self.endpoint = config.endpoint
        """With the port that the system chose where it was left open."""

    def open(self) -> None:
        """Dial, or listen. Raises ConfigError when the endpoint cannot be used, or keys are missing."""
        config = self.config
        _prepare(self.socket, config, self._limits, self.domain)
        try:
            (self.socket.bind if config.bind else self.socket.connect)(config.endpoint)
        except (zmq.ZMQError, ValueError, TypeError) as error:
            raise ConfigError(
                f"cannot {'bind' if config.bind else 'connect to'} {config.endpoint!r}: "
                f"expected an endpoint such as 'tcp://10.0.0.9:5557' ({error})"
            ) from error
        self._listens = config.bind
        if config.bind:
            self.endpoint = self.socket.get_string(zmq.LAST_ENDPOINT)

    def drain(self) -> bool:
        """Take what waits, at most a burst; whether there may be more."""
        recv, receive = self.socket.recv, self.feed.receive
        bytes_left = self._limits.burst_bytes
        for _ in range(self._limits.burst_messages):
            try:
                frame = recv(_NOBLOCK, False)
            except zmq.Again:
                return False
            frames = [frame.bytes]
            while frame.more:
                frame = recv(_NOBLOCK, False)
                if len(frames) <= _FRAMES:  # one too many is kept to tell
                    frames.append(frame.bytes)
            if len(frames) != _FRAMES or len(frames[1]) != _SEQUENCE_BYTES:
                self._reject(frames)
                continue
            if not self._is_open:
                self.follow()  # that it is open was told before this message was sent on
            topic, sequence, payload = frames
            try:
                receive(topic, int.from_bytes(sequence, "big"), payload)
            except KvatlasError as error:
                self._refused += 1
                self.complain("refused", f"a batch is refused: {error}")
            else:
                self._batches += 1
                self._payload_bytes += len(payload)
            bytes_left -= len(payload)
            if bytes_left <= 0:
                break
        return True

    def follow(self) -> None:
        """Take what the monitor tells."""
        for change in self.monitor.changes():
            if change is Change.REFUSED:
                self.turned_away(self.monitor.why)
                self._is_broken = not self.config.bind
            elif self.config.bind:
                self._follow_listening(change)
            else:
                self._is_open = change is Change.OPENED
                self._is_broken = not self._is_open
                (self.feed.opened if self._is_open else self.feed.closed)()

    def tick(self, now_s: float) -> None:
        """Timers."""
        if self._disturbed_s is not None and now_s - self._disturbed_s >= self._limits.settle_s:
            self._disturbed_s = None
            if self.monitor.connections:
                self.feed.closed()
                self.feed.opened()
        self.feed.tick()

    def redial(self, now_s: float) -> bool:
        """Once what came before the break is taken: connect anew, where the connection broke.

        ZeroMQ does so by itself, but not after a frame that was too large or a handshake that failed.
        Returns whether it did.
        """
        if not self._is_broken or now_s - self._dialled_s < self._limits.reconnect_s_max:
            return False
        self._dialled_s = now_s
        self._is_broken = False
        try:
            with suppress(zmq.ZMQError):  # nothing is left of it
                self.socket.disconnect(self.config.endpoint)
            self.socket.connect(self.config.endpoint)
        except zmq.ZMQError as error:
            self._is_broken = True  # for another try
            self.complain("redial", f"cannot connect again: {error}")
        return True

    def turned_away(self, why: str) -> None:
        """A handshake failed."""
        self._handshakes_failed += 1
        self.complain("handshake", f"a handshake failed: {why}")

    def complain(self, kind: str, what: str) -> None:
        """Log it, once for each kind."""
        if kind not in self._said:
            self._said[kind] = what = what[:_SAID_CHARACTERS_MAX]
            _log.warning("%s: %s (said once)", self.config.endpoint, what)

    def statistics(self) -> SourceStatistics:
        return SourceStatistics(
            endpoint=self.endpoint,
            connections=self.monitor.connections,
            batches=self._batches,
            payload_bytes=self._payload_bytes,
            bad_frames=self._bad_frames,
            bad_sequence=self._bad_sequence,
            refused=self._refused,
            handshakes_failed=self._handshakes_failed,
            said=tuple(self._said.copy().values()),
        )

    def give_up(self) -> None:
        """Tell the feed that nothing will come any more. Twice is fine."""
        if self._is_given_up:
            return
        self._is_given_up = True
        self.feed.close()

    def close(self) -> None:
        """Close the socket, and give up. Twice is fine."""
        if not self.socket.closed:
            if self._listens:
                self.monitor.unbind(self.endpoint)
            self.monitor.close()
            self.socket.close(linger=0)
        self.give_up()

    def _follow_listening(self, change: Change) -> None:
        """Whose connection it is nobody says: after a break, all are asked about."""
        if self.monitor.connections == 0:
            self._disturbed_s = None
            self.feed.closed()
        elif change is Change.BROKEN:
            self._disturbed_s = self._disturbed_s or time.monotonic()
        elif self.monitor.connections == 1:
            self.feed.opened()

    def _reject(self, frames: list[bytes]) -> None:
        if len(frames) != _FRAMES:
            self._bad_frames += 1
            count = f"{len(frames)} and more" if len(frames) > _FRAMES else str(len(frames))
            self.complain("frames", f"expected topic, sequence number and payload, got {count} frames")
        else:
            self._bad_sequence += 1
            got = len(frames[1])
            self.complain("sequence", f"expected a sequence number of {_SEQUENCE_BYTES} bytes, got {got}")


def _prepare(socket: Socket, config: SourceConfig, limits: SubscriberConfig, domain: str) -> None:
    """Raises ConfigError where keys are missing."""
    if config.curve is not None and config.bind:
        encrypt_as_server(socket, config.curve, domain)
    elif config.curve is not None:
        encrypt_as_client(socket, config.curve)
    socket.set(zmq.RCVHWM, limits.messages_max)
    socket.set(zmq.MAXMSGSIZE, limits.message_bytes_max)
    # To connect, names may resolve either way; bound to an IPv4 address, it would name itself in IPv6.
    socket.set(zmq.IPV6, not config.bind or "[" in config.endpoint)
    socket.set(zmq.RECONNECT_IVL, int(limits.reconnect_s_min * 1000))
    socket.set(zmq.RECONNECT_IVL_MAX, int(limits.reconnect_s_max * 1000))
    if limits.heartbeat_s:
        socket.set(zmq.HEARTBEAT_IVL, int(limits.heartbeat_s * 1000))
        socket.set(zmq.HEARTBEAT_TIMEOUT, int(limits.heartbeat_s_max * 1000))
    socket.subscribe(b"")
