"""A stream without an atlas: what it lets through goes into a plain set. Looks like a feed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kvatlas.ingest._native import checksum
from kvatlas.ingest.stream.limits import StreamLimits
from kvatlas.ingest.stream.stream import Stream
from kvatlas.ingest.stream.truth import Truth
from tests.models.publisher import apply_toy, toy_time


class ToySink:
    """A sink of toy payloads."""

    def __init__(self) -> None:
        self.held: set[int] = set()
        self.restarts = self.losses = 0

    def apply(self, payload: bytes) -> float | None:
        apply_toy(self.held, payload)
        return toy_time(payload)

    def restart(self) -> None:
        self.restarts += 1
        self.held.clear()

    def lost(self) -> None:
        self.losses += 1


class StreamRequest(NamedTuple):
    """As a feed's request."""

    handler: StreamAlone
    number: int
    start: int


class StreamAlone:
    """One stream, its sink and its truth, driven like a feed and its handler."""

    def __init__(self, limits: StreamLimits, clock_s: Callable[[], float], *, has_replay: bool) -> None:
        self.sink = ToySink()
        self.truth = Truth("toy", clock_s())
        self.clock_s = clock_s
        self.stream = Stream(self.sink, self.truth, limits, has_replay=has_replay, now_s=clock_s())

    # As a feed.

    def receive(self, topic: bytes, seq: int, payload: bytes) -> bool:
        try:
            ts: float | None = toy_time(payload)
        except ValueError:
            ts = None
        if applied := self.stream.receive(seq, checksum(payload), ts, payload, self.clock_s()):
            self.sink.apply(payload)
        return applied

    def opened(self) -> None:
        self.stream.opened(self.clock_s())

    def closed(self) -> None:
        self.stream.closed(self.clock_s())

    def tick(self) -> None:
        self.stream.tick(self.clock_s())

    def requests(self) -> list[StreamRequest]:
        request = self.stream.request
        return [] if request is None else [StreamRequest(self, request.number, request.start)]

    # As the handler of its requests.

    def began(self, number: int) -> None:
        self.stream.replay_began(number, self.clock_s())

    def replayed(self, number: int, topic: bytes | None, seq: int, payload: bytes) -> None:
        self.stream.replayed(number, seq, payload, self.clock_s())

    def ended(self, number: int) -> None:
        self.stream.replay_ended(number, self.clock_s())

    def failed(self, number: int, why: str) -> None:
        self.stream.replay_failed(number, why, self.clock_s())
