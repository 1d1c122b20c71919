"""The way of changes from a subscriber's mirrors to every replica of every shard.

    FleetMirror.take ──> one `route` per layout ──> a ReplicaFeed per replica ──> one message in flight each
    FleetMirror.content ──> the same way, for replicas that are new or have missed something

Load makes messages larger, never queues longer: while one is in flight, the next gathers. Each layout
of the view is fed: the one that serves, the one that is built, those that are left.

Thread safety: one thread drives it (`start`, or a test that calls `step`); other methods from any.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Protocol

import msgspec

from kvatlas.actors.link.link import LinkError, ShardLink
from kvatlas.actors.orders import ClusterView, Replica
from kvatlas.actors.subscriber.holding import HoldAsks, Holding, HoldReport
from kvatlas.actors.subscriber.layout_traffic import LayoutTraffic
from kvatlas.actors.subscriber.replica_feed import Phase, ReplicaFeed
from kvatlas.actors.subscriber.settings import OutboxSettings
from kvatlas.index.errors import KvatlasError
from kvatlas.index.view import FleetPart
from kvatlas.ingest.fleet_mirror import Content
from kvatlas.ingest.step_thread import StepThread

_PARTS_PER_STEP = 16
_LOAD_S_PER_STEP = 0.005
_IDLE_S = 1.0


class ChangeSource(Protocol):
    """Where changes come from: a `FleetMirror`."""

    @property
    def lock(self) -> threading.RLock:
        """Who holds it sees nothing change."""
        ...

    @property
    def changed(self) -> threading.Event: ...
    @property
    def lost(self) -> int: ...
    @property
    def part_version(self) -> int: ...
    def take(self) -> list[bytes]: ...
    def content(self) -> Iterator[Content]: ...
    def part(self) -> FleetPart: ...


class OutboxStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What has gone out, and what waits."""

    replicas: int
    loaded: int
    queued_bytes: int
    """What waits for replicas; of the replicas of one shard each counts."""
    counts: dict[str, int]
    """Over all replicas ever fed: deltas, parts and loads sent; unanswered, refused, fenced, unreadable,
    repeated messages; resyncs, broken_loads, overflows and lost: reasons to load anew; holds, and
    holds_expired that nobody released."""


class Outbox:
    """Feeds all replicas of all layouts. One session's."""

    def __init__(
        self,
        mirror: ChangeSource,
        session: int,
        open_link: Callable[[Replica], ShardLink],
        settings: OutboxSettings | None = None,
        *,
        part_changed: Callable[[], object] = lambda: None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`part_changed` is called, by the thread that drives it, when `part_version` has risen."""
        self.session = session
        self._mirror = mirror
        self._open_link = open_link
        self._settings = settings or OutboxSettings()
        self._part_changed = part_changed
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._layouts: dict[int, LayoutTraffic] = {}
        self._replicas: dict[int, Replica] = {}
        self._links: dict[int, ShardLink] = {}
        self._replies: deque[tuple[ReplicaFeed, Future[bytes]]] = deque()  # one a replica
        self._mark = 0
        self._holding = Holding(clock_s)
        self._lost = mirror.lost
        self._part_version = mirror.part_version
        self._past: Counter[str] = Counter()
        self._is_over = False
        self._thread = StepThread(
            "kvatlas-outbox", self.step, mirror.changed, gather_s=self._settings.gather_s
        )

    # From any thread.

    def start(self) -> Outbox:
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop sending and close the links. Twice is fine."""
        self._thread.stop()
        with self._lock:
            for incarnation in list(self._links):
                self._close_link(incarnation)

    def follow(self, view: ClusterView) -> None:
        """Feed the replicas of this view, and no others."""
        layouts = [view.serving, *([view.building] if view.building is not None else []), *view.leaving]
        with self._lock:
            wanted = {layout.number: layout for layout in reversed(layouts)}
            replicas = {one.incarnation: one for layout in layouts for one in layout.replicas}
            for incarnation, known in list(self._replicas.items()):
                if incarnation not in replicas:
                    self._forget(incarnation)
                elif _way(replicas[incarnation]) != _way(known):
                    self._close_link(incarnation)
            self._replicas = replicas
            for number in list(self._layouts):
                if number not in wanted:
                    del self._layouts[number]
            for number, layout in wanted.items():
                if number not in self._layouts:
                    self._layouts[number] = LayoutTraffic(layout, self.session, self._settings.feed)
                self._layouts[number].follow(layout.replicas)
        self._mirror.changed.set()

    @property
    def failure(self) -> BaseException | None:
        """What ended the thread."""
        return self._thread.failure

    @property
    def is_over(self) -> bool:
        """A shard has said that this session is retired."""
        return self._is_over

    @property
    def loaded(self) -> tuple[int, ...]:
        """Incarnations that have acknowledged the content and what came while it was on its way."""
        with self._lock:
            return tuple(sorted(feed.address.incarnation for feed in self._feeds() if feed.is_loaded))

    def mark(self) -> int:
        """For `has_delivered`: what the mirrors hold now."""
        with self._lock:
            mark = self._mark + 1
        self._mirror.changed.set()
        return mark

    def has_delivered(self, mark: int) -> bool:
        """Whether every loaded replica has acknowledged all that was there at `mark`."""
        with self._lock:
            return self._mark >= mark and all(
                feed.delivered >= mark for feed in self._feeds() if feed.is_loaded
            )

    def hold(self, asks: HoldAsks) -> HoldReport:
        """Take nothing more until `release`, once these replicas have all that is there; ask again until
        the report says so. Raises InputError when another hold stands."""
        mark = self._holding.ask(asks)
        self._mirror.changed.set()
        if mark is None:
            return HoldReport(session=self.session, waits_for="a look at what has come")
        with self._lock:
            feeds = {feed.address.incarnation: feed for feed in self._feeds()}
            late = [
                number
                for number in asks.incarnations
                if number not in feeds or not feeds[number].is_loaded or feeds[number].delivered < mark
            ]
        if late:
            return HoldReport(session=self.session, waits_for=f"answers of {len(late)} replicas")
        part = self._holding.part
        if part is None or not self._holding.stands_for(asks.token):
            return HoldReport(session=self.session, is_over=True, waits_for="nothing: it is over")
        return HoldReport(session=self.session, is_held=True, part=part)

    def release(self, token: int) -> bool:
        """End a hold; whether it stood until now."""
        stood = self._holding.release(token)
        self._mirror.changed.set()
        return stood

    def statistics(self) -> OutboxStatistics:
        with self._lock:
            feeds = list(self._feeds())
            counts = self._past + self._holding.counts
            for feed in feeds:
                counts.update(feed.counts)
            return OutboxStatistics(
                replicas=len(feeds),
                loaded=sum(feed.is_loaded for feed in feeds),
                queued_bytes=sum(feed.queued_bytes for feed in feeds),
                counts=dict(counts),
            )

    # By the one that drives it.

    def step(self) -> float:
        """Do all that is due; returns after how many seconds something may be due again."""
        self._mirror.changed.clear()
        with self._lock:
            self._take_replies()
            if not self._holding.stands:
                self._take_changes()
            if not self._holding.stands:  # a load takes changes too
                for traffic in self._layouts.values():
                    self._load(traffic)
            self._send()
            pause_s = self._pause_s()
        if self._mirror.part_version != self._part_version:
            self._part_version = self._mirror.part_version
            self._part_changed()
        return pause_s

    def _pause_s(self) -> float:
        wakes = [feed.wakes_at_s for feed in self._feeds()]
        if self._holding.stands:
            wakes.append(self._holding.wakes_at_s)
        elif any(traffic.has_room for traffic in self._layouts.values()):
            return 0.0
        else:
            wakes += [traffic.wakes_at_s for traffic in self._layouts.values()]
        at_s = min(wakes, default=math.inf)
        return min(_IDLE_S, max(0.0, at_s - self._clock_s()))

    def _feeds(self) -> Iterator[ReplicaFeed]:
        for traffic in self._layouts.values():
            yield from traffic.feeds.values()

    def _take_replies(self) -> None:
        while self._replies:
            feed, answer = self._replies.popleft()
            try:
                reply = answer.result()
            except LinkError:
                feed.failed(self._clock_s())
            else:
                feed.answered(reply, self._clock_s())
                self._is_over = self._is_over or feed.phase is Phase.OVER

    def _take_changes(self) -> None:
        self._mark += 1
        if self._holding.is_asked:
            with self._mirror.lock:  # the part is of the moment that the changes end at
                pieces, part = self._mirror.take(), self._mirror.part()
            self._put(pieces)
            self._holding.begin(self._mark, part)
        else:
            self._put(self._mirror.take())
        self._look_for_loss()

    def _put(self, pieces: list[bytes]) -> None:
        records = b"".join(pieces)
        for traffic in self._layouts.values():
            traffic.put(records, self._mark)

    def _look_for_loss(self) -> None:
        if self._mirror.lost != self._lost:
            self._lost = self._mirror.lost
            for traffic in self._layouts.values():
                traffic.drop("lost")

    def _load(self, traffic: LayoutTraffic) -> None:
        """Carry a load on. The content of a worker comes after all that was gathered before it, for
        everybody; changes of workers that are still to come are replaced by their content."""
        if traffic.is_due(self._clock_s()):
            traffic.begin_load(self._mirror.content())
        until_s = self._clock_s() + _LOAD_S_PER_STEP
        for _ in range(_PARTS_PER_STEP):
            part = traffic.next_content() if traffic.has_room else None
            if part is None:
                return
            self._put(part.before)
            traffic.load(part)
            self._look_for_loss()
            if self._clock_s() >= until_s:
                return  # changes of others should not wait for it

    def _send(self) -> None:
        now_s = self._clock_s()
        for feed in self._feeds():
            frame = feed.next_frame(now_s)
            if frame is None:
                continue
            try:
                answer = self._link(feed.address.incarnation).request(frame, self._settings.request_s_max)
            except KvatlasError:  # an endpoint that is none, keys that do not fit
                feed.failed(now_s)
                continue
            answer.add_done_callback(lambda answer, feed=feed: self._replied(feed, answer))  # type: ignore[misc]

    def _replied(self, feed: ReplicaFeed, answer: Future[bytes]) -> None:
        self._replies.append((feed, answer))
        self._mirror.changed.set()

    def _link(self, incarnation: int) -> ShardLink:
        link = self._links.get(incarnation)
        if link is None:
            link = self._links[incarnation] = self._open_link(self._replicas[incarnation])
        return link

    def _close_link(self, incarnation: int) -> None:
        link = self._links.pop(incarnation, None)
        if link is not None:
            link.close()

    def _forget(self, incarnation: int) -> None:
        self._close_link(incarnation)
        for traffic in self._layouts.values():
            feed = traffic.feeds.pop(incarnation, None)
            if feed is not None:
                self._past.update(feed.counts)


def _way(replica: Replica) -> tuple[str, str]:
    """How it is reached."""
    return replica.endpoint, replica.actor
