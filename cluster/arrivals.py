"""What has reached the atlas, by sender: between a subscriber and the atlas it feeds."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping

import msgspec

from kvatlas.ingest.subscriber import BatchSink


class Arrival(msgspec.Struct, frozen=True):
    """One batch."""

    topic: bytes
    seq: int
    payload: bytes


class Arrivals:
    """Hands every batch on, then counts it; keeps the last `kept` ones.

    One thread ingests, others may look at the same time.
    """

    def __init__(self, sink: BatchSink, kept: int = 0) -> None:
        self._sink = sink
        self.batches_by_topic: Counter[bytes] = Counter()
        self.last: deque[Arrival] = deque(maxlen=kept)

    def ingest(self, topic: bytes, seq: int, payload: bytes) -> None:
        self._sink.ingest(topic, seq, payload)
        self.last.append(Arrival(topic, seq, payload))
        self.batches_by_topic[topic] += 1

    def have(self, batches_by_topic: Mapping[bytes, int]) -> bool:
        """Whether at least so many have come from each."""
        return all(self.batches_by_topic[topic] >= count for topic, count in batches_by_topic.items())
