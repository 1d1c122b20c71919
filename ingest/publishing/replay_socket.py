"""The replay socket of a publisher of KV events: the last batches, for those who ask.

    request  [identity, b"", start: 8 bytes big-endian]
    replies  [identity, b"", topic, sequence, payload] for each buffered batch from start on, then
             [identity, b"", b"", ff * 8, b""]; older releases leave the topic's frame out

Nothing says that the start was dropped already, and a peer that does not read loses replies
silently beyond the socket's high-water mark: both as with the real one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable

import zmq

from kvatlas.index.errors import ConfigError
from kvatlas.ingest.sockets.curve import CurveConfig, encrypt_as_server

END_OF_REPLAY = b"\xff" * 8

_REQUEST_FRAMES = 3
_REOPEN_PAUSE_S = 0.005

_log = logging.getLogger(__name__)


class ReplaySocket:
    """A ROUTER with a thread that answers from a buffer of `buffer_steps` batches, and of at most
    `buffer_bytes_max` where that is given, the newest one always.

    Any thread may call it; `open` and `close` by turns.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        topic: bytes,
        *,
        buffer_steps: int,
        hwm: int,
        topic_in_replies: bool,
        buffer_bytes_max: int | None = None,
        curve: CurveConfig | None = None,
    ) -> None:
        self._context = context
        self._heading = [topic] if topic_in_replies else []
        self._end = [b"", END_OF_REPLAY, b""] if topic_in_replies else [END_OF_REPLAY, b""]
        self._hwm = hwm
        self._curve = curve
        self._buffer: deque[tuple[int, bytes]] = deque(maxlen=buffer_steps)
        self._bytes_max = buffer_bytes_max
        self._bytes = 0
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._stop: zmq.Socket[bytes] | None = None
        self._thread: threading.Thread | None = None

    def append(self, sequence: int, payload: bytes) -> None:
        """Buffers a batch; the oldest ones go when the buffer is full."""
        buffer = self._buffer
        with self._lock:
            if len(buffer) == buffer.maxlen and buffer:
                self._bytes -= len(buffer[0][1])
            buffer.append((sequence, payload))
            self._bytes += len(payload)
            while self._bytes_max is not None and self._bytes > self._bytes_max and len(buffer) > 1:
                self._bytes -= len(buffer.popleft()[1])

    def clear(self) -> None:
        with self._lock:
            self._buffer.clear()
            self._bytes = 0

    def count(self, what: str) -> int:
        """One of "buffered", "replays", "replayed" and "bad_requests"."""
        with self._lock:
            return len(self._buffer) if what == "buffered" else self._counts[what]

    def open(self, endpoint: str, deadline_s: float) -> str:
        """Binds, trying until then, and starts to answer; returns the endpoint with its port.

        Raises ZMQError when it cannot be bound, ConfigError without the keys for it.
        """
        router = self._context.socket(zmq.ROUTER)
        router.set(zmq.SNDHWM, self._hwm)
        router.set(zmq.LINGER, 0)
        try:
            if self._curve is not None:
                encrypt_as_server(router, self._curve)
            address = bind(router, endpoint, deadline_s)
        except (zmq.ZMQError, ConfigError):
            router.close()
            raise
        waiting = self._context.socket(zmq.PAIR)
        self._stop = self._context.socket(zmq.PAIR)
        waiting.bind(f"inproc://stop-{id(self)}")
        self._stop.connect(f"inproc://stop-{id(self)}")
        self._thread = threading.Thread(
            target=self._serve, args=(router, waiting), name=f"replay {address}", daemon=True
        )
        self._thread.start()
        return address

    def close(self) -> None:
        """Stops answering and frees the port; the buffer stays."""
        if self._stop is None or self._thread is None:
            return
        self._stop.send(b"")
        self._thread.join()
        self._stop.close()
        self._stop = self._thread = None

    def _serve(self, router: zmq.Socket[bytes], stop: zmq.Socket[bytes]) -> None:
        poller = zmq.Poller()
        poller.register(router, zmq.POLLIN)
        poller.register(stop, zmq.POLLIN)
        with router, stop:
            while stop not in dict(poller.poll()):
                self._answer(router.recv_multipart(), router.send_multipart)

    def _answer(self, request: list[bytes], send: Callable[[list[bytes]], object]) -> None:
        if len(request) != _REQUEST_FRAMES:
            _log.warning("replay request: expected 3 frames, got %d", len(request))
            with self._lock:
                self._counts["bad_requests"] += 1
            return
        envelope = request[:2]
        start = int.from_bytes(request[2], "big")
        with self._lock:
            batches = [batch for batch in self._buffer if batch[0] >= start]
        for sequence, payload in batches:
            send([*envelope, *self._heading, sequence.to_bytes(8, "big"), payload])
        # Counted first, so that whoever has the end also sees it in the statistics.
        with self._lock:
            self._counts["replays"] += 1
            self._counts["replayed"] += len(batches)
        send([*envelope, *self._end])


def bind(socket: zmq.Socket[bytes], endpoint: str, deadline_s: float) -> str:
    """Binds, again and again until then: a port stays taken a moment after its socket is closed.

    Returns the endpoint with its port. Raises ZMQError.
    """
    while True:
        try:
            socket.bind(endpoint)
            break
        except zmq.ZMQError as error:
            if error.errno != zmq.EADDRINUSE or time.monotonic() > deadline_s:
                raise
            time.sleep(_REOPEN_PAUSE_S)
    return socket.get_string(zmq.LAST_ENDPOINT)
