"""The ZeroMQ side of the simulated model server: live batches on a PUB socket, and their replay."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import msgspec
import zmq

from kvatlas.index.errors import ConfigError, KvatlasError
from kvatlas.ingest.publishing.replay_socket import ReplaySocket, bind
from kvatlas.ingest.sockets.curve import CurveConfig, encrypt_as_client, encrypt_as_server

_POLL_MS = 5
_REOPEN_S_MAX = 10.0
_SUBSCRIBE = b"\x01"


class PublisherStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What a publisher has sent since it was made."""

    next_sequence: int
    subscribers: int
    """Subscriptions that stand."""
    published: int
    lost: int
    """Batches that `lose` or `cut` kept from the live socket."""
    buffered: int
    """Batches that can be replayed now."""
    replays: int
    """Requests that were answered."""
    replayed: int
    """Batches in those answers, also those that were dropped at the high-water mark."""
    bad_requests: int
    """Requests without the empty frame, which get no answer."""


class SimulatedPublisher:
    """Publishes payloads with sequence numbers from 0, and replays the last `buffer_steps` of them.

    An endpoint with `*` or `::`, and any ipc:// or inproc:// one, is bound; others are connected,
    then the subscriber binds. TCP ports are raised by `data_parallel_rank`. `hwm` and `replay_hwm`
    are ZeroMQ's, in messages per peer. `topic_in_replay=False` gives the replies of older releases.
    `curve` encrypts: where it binds, by its `secret_key`; where it dials, by the `server_key` there.
    inproc:// endpoints need the `context` of their peers; without one it has its own.
    Any thread may call it. Raises ConfigError when an endpoint cannot be used.
    """

    def __init__(
        self,
        topic: str,
        *,
        endpoint: str = "tcp://127.0.0.1:*",
        replay_endpoint: str | None = "tcp://127.0.0.1:*",
        data_parallel_rank: int = 0,
        buffer_steps: int = 10_000,
        hwm: int = 100_000,
        replay_hwm: int = 1000,
        topic_in_replay: bool = True,
        curve: CurveConfig | None = None,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> None:
        self.endpoint = _raised_port(endpoint, data_parallel_rank)
        """Where subscribers connect; or what it connects to."""
        self.replay_endpoint: str | None = None
        if replay_endpoint is not None:
            self.replay_endpoint = _raised_port(replay_endpoint, data_parallel_rank)
        self._topic = topic.encode()
        self._is_bound = any(mark in endpoint for mark in ("*", "::", "ipc://", "inproc://"))
        self._hwm = hwm
        self._curve = curve
        self._owns_context = context is None
        self._context = zmq.Context() if context is None else context
        self._replay = ReplaySocket(
            self._context,
            self._topic,
            buffer_steps=buffer_steps,
            hwm=replay_hwm,
            topic_in_replies=topic_in_replay,
            curve=curve,
        )
        self._lock = threading.Lock()
        self._socket: zmq.Socket[bytes] | None = None
        self._sequence = 0
        self._losing = 0
        self._losing_for_good = False
        self._is_cut = False
        self._subscribers = 0
        self._published = self._lost = 0
        try:
            self._open(time.monotonic())
        except ConfigError:
            self.close()
            raise
        except zmq.ZMQError as error:
            self.close()
            raise ConfigError(f"endpoints {endpoint!r}, {replay_endpoint!r}: {error}") from error

    def publish(self, payload: bytes) -> int:
        """Sends one batch and keeps it for replay; returns its sequence number.

        Raises KvatlasError when it is closed.
        """
        with self._lock:
            socket = None if self._is_cut else self._opened()
            sequence = self._sequence
            self._sequence += 1
            loses = socket is not None and self._losing > 0
            self._losing -= loses
            if not (loses and self._losing_for_good):
                self._replay.append(sequence, payload)  # first: whoever has heard it may ask for it at once
            if socket is None or loses:
                self._lost += 1
            else:
                socket.send_multipart((self._topic, sequence.to_bytes(8, "big"), payload))
                self._published += 1
            if socket is not None:
                self._count_subscribers(socket)
            return sequence

    def lose(self, batches: int, *, for_good: bool = False) -> None:
        """The next batches take their numbers but do not reach subscribers.

        They can be replayed, unless `for_good`: then the sequence has a hole.
        """
        with self._lock:
            self._losing = batches
            self._losing_for_good = for_good

    def restart(self, *, reopen: bool = True) -> None:
        """Begins again at 0 with an empty buffer, as the process of a restarted server does.

        `reopen` closes the sockets and opens them at the same endpoints.
        """
        with self._lock:
            if not self._is_cut:
                self._opened()
            self._sequence = self._losing = 0
            self._replay.clear()
            if reopen:
                self._close_sockets()
                self._open(time.monotonic() + _REOPEN_S_MAX)
                self._is_cut = False

    def cut(self) -> None:
        """Nobody reaches it until `mend`: what it publishes meanwhile can only be replayed. Twice is fine."""
        with self._lock:
            if self._is_cut:
                return
            self._opened()
            self._close_sockets()
            self._is_cut = True

    def mend(self) -> None:
        """Opens its sockets again, at the same endpoints."""
        with self._lock:
            if self._is_cut:
                self._open(time.monotonic() + _REOPEN_S_MAX)
                self._is_cut = False

    def wait_for_subscribers(self, count: int = 1, *, timeout_s: float = 10.0) -> None:
        """Returns when so many have subscribed: what is published from then on reaches them.

        After a restart each subscribes again, as soon as it polls. Raises TimeoutError.
        """
        deadline_s = time.monotonic() + timeout_s
        while True:
            with self._lock:
                socket = self._opened()
                socket.poll(_POLL_MS)
                self._count_subscribers(socket)
                if self._subscribers >= count:
                    return
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"expected {count} subscribers, got {self._subscribers}")

    def close(self) -> None:
        """Stops and frees the ports; unsent messages are dropped. Twice is fine."""
        with self._lock:
            self._close_sockets()
            self._is_cut = False
            if self._owns_context:
                self._context.term()

    def statistics(self) -> PublisherStatistics:
        with self._lock:
            if self._socket is not None:
                self._count_subscribers(self._socket)
            return PublisherStatistics(
                next_sequence=self._sequence,
                subscribers=self._subscribers,
                published=self._published,
                lost=self._lost,
                buffered=self._replay.count("buffered"),
                replays=self._replay.count("replays"),
                replayed=self._replay.count("replayed"),
                bad_requests=self._replay.count("bad_requests"),
            )

    def __enter__(self) -> SimulatedPublisher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _opened(self) -> zmq.Socket[bytes]:
        if self._socket is None:
            raise KvatlasError("publisher: closed")
        return self._socket

    def _open(self, deadline_s: float) -> None:
        # XPUB is a PUB that also tells who subscribed.
        self._socket = self._context.socket(zmq.XPUB)
        self._socket.set(zmq.SNDHWM, self._hwm)
        self._socket.set(zmq.XPUB_VERBOSER, 1)
        self._socket.set(zmq.LINGER, 0)
        if self._curve is not None:
            (encrypt_as_server if self._is_bound else encrypt_as_client)(self._socket, self._curve)
        if self._is_bound:
            self.endpoint = bind(self._socket, self.endpoint, deadline_s)
        else:
            self._socket.connect(self.endpoint)
        if self.replay_endpoint is not None:
            self.replay_endpoint = self._replay.open(self.replay_endpoint, deadline_s)

    def _close_sockets(self) -> None:
        self._replay.close()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            self._subscribers = 0

    def _count_subscribers(self, socket: zmq.Socket[bytes]) -> None:
        while int(socket.get(zmq.EVENTS)) & zmq.POLLIN:
            self._subscribers += 1 if socket.recv()[:1] == _SUBSCRIBE else -1


def _raised_port(endpoint: str, rank: int) -> str:
    """Each data-parallel rank has ports of its own; one that the system chooses is its own already."""
    head, _, port = endpoint.rpartition(":")
    if rank == 0 or not endpoint.startswith("tcp://") or not port.isdecimal() or port == "0":
        return endpoint
    return f"{head}:{int(port) + rank}"
