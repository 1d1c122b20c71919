"""What has reached the atlas, by sender: between a subscriber and the atlas it feeds."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence

import msgspec

from kvatlas.ingest.feed import FeedNames
from kvatlas.ingest.sockets.batch_sink import BatchFeed, BatchSink, ReplayWanted

_NAMED_TOPIC = b"kv@"


class Arrival(msgspec.Struct, frozen=True):
    """One batch."""

    topic: bytes
    """`kv@<pod>@<model>`, by its source's names where the server has another kind of topic."""
    seq: int
    payload: bytes


class Arrivals:
    """Hands every live batch on, then counts it; keeps the last `kept` ones.

    One thread receives, others may look at the same time.
    """

    def __init__(self, sink: BatchSink, kept: int = 0) -> None:
        self._sink = sink
        self.batches_by_topic: Counter[bytes] = Counter()
        self.last: deque[Arrival] = deque(maxlen=kept)

    def feed(
        self,
        names: FeedNames | None = None,
        has_replay: bool | Callable[[str, int], bool] = False,
        *,
        introduces: bool = False,
    ) -> BatchFeed:
        feed = self._sink.feed(names, has_replay, introduces=introduces)
        return ArrivalsFeed(self, feed, names or FeedNames())

    def note(self, arrival: Arrival) -> None:
        self.last.append(arrival)
        self.batches_by_topic[arrival.topic] += 1

    def have(self, batches_by_topic: Mapping[bytes, int]) -> bool:
        """Whether at least so many have come from each."""
        return all(self.batches_by_topic[topic] >= count for topic, count in batches_by_topic.items())


class ArrivalsFeed:
    """The feed of one source, whose batches are noted on the way."""

    def __init__(self, arrivals: Arrivals, feed: BatchFeed, names: FeedNames) -> None:
        self._arrivals = arrivals
        self._feed = feed
        self._topic = f"kv@{names.pod or ''}@{names.model or ''}".encode()

    def receive(self, topic: bytes, seq: int, payload: bytes) -> None:
        self._feed.receive(topic, seq, payload)
        named = topic if topic.startswith(_NAMED_TOPIC) else self._topic
        self._arrivals.note(Arrival(named, seq, payload))

    def opened(self) -> None:
        self._feed.opened()

    def closed(self) -> None:
        self._feed.closed()

    def tick(self) -> None:
        self._feed.tick()

    def requests(self) -> Sequence[ReplayWanted]:
        return self._feed.requests()

    def close(self) -> None:
        self._feed.close()
