"""What one subscriber sends to all replicas of one layout: routed once, shared by the replicas of a shard."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from kvatlas.actors.link.messages import Address
from kvatlas.actors.orders import Layout, Replica
from kvatlas.actors.subscriber.replica_feed import FeedLimits, Phase, ReplicaFeed
from kvatlas.index._native import route
from kvatlas.ingest.fleet_mirror import Content

_COMPANY_S = 0.02
"""How long a load waits for replicas that have not answered yet, so that one pass serves all."""


class LayoutTraffic:
    """The feeds of a layout's replicas, and the load under way. One thread at a time."""

    def __init__(self, layout: Layout, session: int, limits: FeedLimits) -> None:
        self.number = layout.number
        self.n_shards = layout.n_shards
        self.feeds: dict[int, ReplicaFeed] = {}
        """By incarnation."""
        self._session = session
        self._limits = limits
        self._content: Iterator[Content] | None = None
        self._loads: list[ReplicaFeed] = []
        self._due_s = math.inf

    def follow(self, replicas: Iterable[Replica]) -> None:
        """These processes are up, no others: new ones are to be loaded, those gone are forgotten."""
        wanted = {replica.incarnation: replica for replica in replicas if replica.shard < self.n_shards}
        self.feeds = {number: feed for number, feed in self.feeds.items() if number in wanted}
        for incarnation, replica in wanted.items():
            if incarnation not in self.feeds:
                address = Address(self.number, replica.shard, incarnation)
                self.feeds[incarnation] = ReplicaFeed(address, self._session, self._limits)

    def put(self, records: bytes, mark: int) -> None:
        """Unrouted changes, which all replicas get that have begun to load; `mark` never falls."""
        takes = any(feed.takes for feed in self.feeds.values())
        routed = route(records, self.n_shards) if takes else [b""] * self.n_shards
        for feed in self.feeds.values():
            feed.put(routed[feed.address.shard], mark)

    def drop(self, why: str) -> None:
        """All are to be loaded anew."""
        for feed in self.feeds.values():
            feed.drop(why)

    # Loading.

    def is_due(self, now_s: float) -> bool:
        """Whether a load should begin: somebody wants it, and who was asked just now has answered too."""
        new = [feed for feed in self.feeds.values() if feed.phase is Phase.NEW]
        if self.is_loading or not any(feed.wants_content for feed in new):
            return False
        self._due_s = min(self._due_s, now_s + _COMPANY_S)
        return now_s >= self._due_s or all(feed.wants_content for feed in new)

    @property
    def wakes_at_s(self) -> float:
        """When `is_due` is to be asked although nothing has happened."""
        return self._due_s if not self.is_loading else math.inf

    @property
    def has_room(self) -> bool:
        """A load is under way, and nobody in it has more waiting than a few messages."""
        room = 2 * self._limits.message_bytes_max
        return self.is_loading and all(feed.queued_bytes < room for feed in self._members())

    def begin_load(self, content: Iterator[Content]) -> None:
        """Load all that want it; `next_content` carries it on."""
        assert self._content is None
        self._content, self._due_s = content, math.inf
        self._loads = [feed for feed in self.feeds.values() if feed.wants_content]
        for feed in self._loads:
            feed.begin_load()

    @property
    def is_loading(self) -> bool:
        return self._content is not None

    def next_content(self) -> Content | None:
        """One worker's or store's content on its way; None: that was all, or nobody is left to load.

        What it says was gathered `before` must be put to everybody first, then comes `load`.
        """
        assert self._content is not None
        part = next(self._content, None) if self._members() else None
        if part is None:
            for feed in self._members():
                feed.end_load()
            self._content, self._loads = None, []
        return part

    def load(self, part: Content) -> None:
        members = self._members()
        if members:
            routed = route(part.records, self.n_shards)
            for feed in members:
                feed.put_content(part.lanes, routed[feed.address.shard])

    def _members(self) -> list[ReplicaFeed]:
        """Those still in the load; who was dropped from it waits for the next one."""
        self._loads = [
            feed
            for feed in self._loads
            if feed.phase is Phase.LOADING and self.feeds.get(feed.address.incarnation) is feed
        ]
        return self._loads
