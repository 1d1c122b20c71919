"""What a subscriber meets: raw publishers, replay sockets that follow a script, and a sink that notes."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence

import zmq

from kvatlas.index.errors import DecodeError
from kvatlas.ingest.feed import FeedNames
from kvatlas.ingest.publishing.replay_socket import bind as bind_until
from kvatlas.ingest.sockets.batch_sink import ReplayWanted
from tests.ingest.zmq_peers import END_OF_REPLAY, WAIT_S, Peers, Socket, number

LOOPBACK = "tcp://127.0.0.1:*"
NO_BATCH = b"no batch"
BROKEN = b"broken invariant"


class NotingFeed:
    """Stands where a feed stands, and keeps what it is given."""

    def __init__(self, names: FeedNames, batches: list[tuple[bytes, int, bytes]]) -> None:
        self.names = names
        self.batches = batches
        self.told: list[str] = []
        self.held = threading.Lock()
        """Whoever has it, holds up the receiving thread."""

    def receive(self, topic: bytes, seq: int, payload: bytes) -> None:
        with self.held:
            self._take(topic, seq, payload)

    def _take(self, topic: bytes, seq: int, payload: bytes) -> None:
        if payload == NO_BATCH:
            raise DecodeError("no batch")
        if payload == BROKEN:
            raise RuntimeError("broken invariant")
        self.batches.append((topic, seq, payload))

    def opened(self) -> None:
        self.told.append("opened")

    def closed(self) -> None:
        self.told.append("closed")

    def close(self) -> None:
        self.told.append("close")

    def tick(self) -> None:
        pass

    def requests(self) -> Sequence[ReplayWanted]:
        return ()


class NotingSink:
    """Stands where the atlas stands."""

    def __init__(self) -> None:
        self.batches: list[tuple[bytes, int, bytes]] = []
        self.feeds: list[NotingFeed] = []

    def feed(
        self,
        names: FeedNames | None = None,
        has_replay: bool | Callable[[str, int], bool] = False,
        *,
        introduces: bool = False,
    ) -> NotingFeed:
        self.feeds.append(NotingFeed(names or FeedNames(), self.batches))
        return self.feeds[-1]


class RawPublisher:
    """An XPUB socket, which tells when a subscription has arrived."""

    def __init__(self, peers: Peers, endpoint: str = LOOPBACK, *, bind: bool = True) -> None:
        self.socket = peers.socket(zmq.XPUB)
        self.socket.set(zmq.XPUB_VERBOSER, 1)  # else a quick resubscription is merged with what it follows
        self.socket.set(zmq.IPV6, "[" in endpoint)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.SNDHWM, 0)
        if not bind:
            self.socket.connect(endpoint)
        else:  # that of one who has just left is free a moment later
            bind_until(self.socket, endpoint, time.monotonic() + WAIT_S)
        self.endpoint = self.socket.get_string(zmq.LAST_ENDPOINT)
        self.seq = 0

    def wait_for_subscriber(self) -> None:
        assert self.socket.poll(int(WAIT_S * 1000)), "nobody subscribed"
        assert self.socket.recv() == b"\x01"

    def wait_for_departure(self) -> None:
        assert self.socket.poll(int(WAIT_S * 1000)), "nobody left"
        assert self.socket.recv() == b"\x00", "the subscription ends with the connection"

    def wait_for_another(self) -> None:
        """One leaves and one comes; of which is heard first is not certain."""
        told: list[bytes] = []
        for _ in range(2):
            assert self.socket.poll(int(WAIT_S * 1000)), told
            told.append(self.socket.recv())
        assert sorted(told) == [b"\x00", b"\x01"], "the subscription ends with the connection"

    def publish(self, topic: bytes, payload: bytes) -> None:
        self.socket.send_multipart([topic, struct.pack(">Q", self.seq), payload])
        self.seq += 1


Script = Callable[[int], Iterable[list[bytes]]]
"""Frames of an answer to a question that begins at this number."""


class ScriptedReplay:
    """A ROUTER that answers by a script; with `breaks_off`, at most until it is asked anew."""

    def __init__(self, peers: Peers, script: Script, *, breaks_off: bool = False) -> None:
        self._router: Socket = peers.context.socket(zmq.ROUTER)
        self._router.set(zmq.LINGER, 0)
        self._router.bind(LOOPBACK)
        self.endpoint = self._router.get_string(zmq.LAST_ENDPOINT)
        self.starts: list[int] = []
        """Where each question began."""
        self._script = script
        self._breaks_off = breaks_off
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> ScriptedReplay:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _serve(self) -> None:
        with self._router:
            while not self._stopping.is_set():
                if self._router.poll(5):
                    who, _, start = self._router.recv_multipart()
                    self.starts.append(int.from_bytes(start, "big"))
                    for frames in self._script(self.starts[-1]):
                        self._router.send_multipart([who, *frames])
                        if self._stopping.is_set() or (self._breaks_off and self._router.poll(0)):
                            break


def reply(topic: bytes, seq: int, payload: bytes) -> list[bytes]:
    return [b"", topic, number(seq), payload]


END = [b"", b"", END_OF_REPLAY, b""]
