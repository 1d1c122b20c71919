"""What a subscriber needs of the atlas that it feeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from kvatlas.ingest.feed import FeedNames


class ReplayHandler(Protocol):
    """Takes the answer to a replay request: a `Conversation`."""

    @property
    def pod(self) -> str | None: ...
    @property
    def rank(self) -> int | None: ...
    def began(self, number: int) -> None: ...
    def replayed(self, number: int, topic: bytes | None, seq: int, payload: bytes) -> None: ...
    def ended(self, number: int) -> None: ...
    def failed(self, number: int, why: str) -> None: ...


class ReplayWanted(Protocol):
    """A request that should be in flight: a `FeedRequest`."""

    @property
    def handler(self) -> ReplayHandler: ...
    @property
    def number(self) -> int: ...
    @property
    def start(self) -> int: ...


class BatchFeed(Protocol):
    """Takes the batches of one source: a `Feed`."""

    def receive(self, topic: bytes, seq: int, payload: bytes) -> None: ...
    def opened(self) -> None: ...
    def closed(self) -> None: ...
    def tick(self) -> None: ...
    def requests(self) -> Sequence[ReplayWanted]: ...
    def close(self) -> None: ...


class BatchSink(Protocol):
    """Makes a feed for each source: an `Atlas`."""

    def feed(
        self,
        names: FeedNames | None = None,
        has_replay: bool | Callable[[str, int], bool] = False,
        *,
        introduces: bool = False,
    ) -> BatchFeed: ...
