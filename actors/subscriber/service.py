"""A subscriber: sockets to its pods, mirrors of their caches, changes to all shards. No Ray in it.

Subscriber ──batches──> FleetMirror ──changes──> Outbox ──messages──> ShardService, wherever it runs
                             └──> checkpoints
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from kvatlas.actors.link.link import ShardLink
from kvatlas.actors.orders import (
    ClusterView,
    Lease,
    Replica,
    ReuseReport,
    SubscriberOrders,
    SubscriberReport,
)
from kvatlas.actors.subscriber.checkpoint_keeper import CheckpointKeeper
from kvatlas.actors.subscriber.holding import HoldAsks, HoldReport
from kvatlas.actors.subscriber.outbox import Outbox, OutboxStatistics
from kvatlas.actors.subscriber.pod_sources import PodSources
from kvatlas.actors.subscriber.settings import SubscriberSettings
from kvatlas.actors.subscriber.telling import Telling
from kvatlas.index.view import FleetPart
from kvatlas.ingest.atlas_statistics import AtlasStatistics
from kvatlas.ingest.fleet_mirror import FleetMirror
from kvatlas.ingest.numbering import LeasedNumbers
from kvatlas.ingest.outlet import GatheringOutlet
from kvatlas.ingest.sockets.subscriber import Subscriber
from kvatlas.ingest.sockets.subscriber_statistics import SubscriberStatistics

_EVENTS = ("events_stored", "events_removed", "events_cleared")


class ServiceStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Everything of one subscriber, at one moment."""

    mirror: AtlasStatistics
    sockets: SubscriberStatistics
    outbox: OutboxStatistics
    counts: dict[str, int]
    """Of pods and sources refused, of checkpoints."""


class SubscriberService:
    """One session of one subscriber, from its orders to its end.

    Any thread may call any method; `obey`, `report` and `not_told` one at a time. A directory that is
    gone changes nothing: what is known is followed and fed.
    """

    def __init__(
        self,
        name: str,
        orders: SubscriberOrders,
        settings: SubscriberSettings,
        *,
        open_link: Callable[[Replica], ShardLink],
        part_changed: Callable[[], object] = lambda: None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`orders`: the first ones, with session, seed, leases and pods. `part_changed` is called when a
        report has something new. Raises ConfigError when sockets cannot be made."""
        self.name = name
        self.session = orders.session
        self._settings = settings
        self._clock_s = clock_s
        self._numbers = LeasedNumbers(rest_s=settings.lane_rest_s, clock_s=clock_s)
        self._numbers.lease(_pairs(orders.lanes), _pairs(orders.workers))
        self.mirror = FleetMirror(
            settings.atlas,
            GatheringOutlet(bytes_max=settings.gathered_bytes_max),
            self._numbers,
            hash_seed=orders.hash_seed,
            clock_s=clock_s,
        )
        self._checkpoints = self._keeper(settings)
        self._sockets = Subscriber(self.mirror, (), settings.sockets)
        self._sources = PodSources(self.mirror, self._sockets)
        self.outbox = Outbox(
            self.mirror, self.session, open_link, settings.outbox, part_changed=part_changed, clock_s=clock_s
        )
        self._telling = Telling(self.outbox)
        self._told: int | None = None
        """Version of the part that the directory has."""
        self._last_part: FleetPart | None = None
        """The same, as it was told."""
        self._settle_by_s = clock_s() + settings.settle_s
        self._settled_at: int | None = None
        """Mark of the outbox when all had been heard."""
        self._is_settled = False
        self._count_at_s = -math.inf
        self._reported: dict[str, int] = {}
        self._bytes = 0
        self._sources.learn(orders.pods)  # before a checkpoint: stores are taken only where a pod names them
        if self._checkpoints is not None:
            self._checkpoints.load()
            if not self._sources.hears_others:
                self._forget_strangers()
        self._set_block_sizes(orders)

    def _keeper(self, settings: SubscriberSettings) -> CheckpointKeeper | None:
        if settings.checkpoint_folder is None:
            return None
        folder = Path(settings.checkpoint_folder)
        return CheckpointKeeper(self.mirror, folder, self.name, self.session, settings.checkpoint_s)

    def start(self, orders: SubscriberOrders) -> SubscriberService:
        """Listen and send; returns itself."""
        self._sockets.start()
        self.outbox.start()
        self.obey(orders)
        if self._checkpoints is not None:
            self._checkpoints.start()
        return self

    def stop(self) -> None:
        """Listen and send no more. Twice is fine. Raises what ended the receiving thread early."""
        if self._checkpoints is not None:
            self._checkpoints.stop()
        self.outbox.stop()
        try:
            self._sockets.stop()
        finally:
            self.mirror.close()

    def save(self) -> bool:
        """Write a checkpoint now; False: there is no folder, or something went wrong."""
        return self._checkpoints is not None and self._checkpoints.save()

    # What the directory says, and what it is told.

    def follow(self, view: ClusterView) -> None:
        """Feed the shards of this view."""
        self.outbox.follow(view)

    def obey(self, orders: SubscriberOrders) -> None:
        """Follow these pods, with these numbers and block sizes."""
        if orders.wants_part:
            self.not_told()
        if self._numbers.lease(_pairs(orders.lanes), _pairs(orders.workers)):
            self.mirror.numbers_came()
        self._set_block_sizes(orders)
        if self._sources.obey(orders.pods) and self._settled_at is not None:
            self._forget_strangers()

    def _set_block_sizes(self, orders: SubscriberOrders) -> None:
        for model, tokens in orders.block_sizes.items():
            self._sources.set_block_size(model, tokens)

    def report(self) -> SubscriberReport:
        """For the directory; with the part when that has changed since it was last told."""
        version = self.mirror.part_version
        part = told = None
        if version != self._told or self.is_unsteady:
            part = self.mirror.part()
            told = self._telling.of(part)
        settled = self._settle(part) and not self._telling.holds_back
        self._told = version
        self._last_part, told = told or self._last_part, told if told != self._last_part else None
        self._count()
        return SubscriberReport(
            session=self.session,
            name=self.name,
            part=told,
            loaded=self.outbox.loaded,
            settled=settled,
            lanes_free=self._numbers.lanes_free,
            workers_free=self._numbers.workers_free,
            counts=self._reported,
            bytes=self._bytes,
        )

    def _count(self) -> None:
        """Of the mirrors and the outbox, for reports; it costs some microseconds a worker."""
        now_s = self._clock_s()
        if now_s < self._count_at_s:
            return
        self._count_at_s = now_s + self._settings.report_s
        mirror, outbox = self.mirror.statistics(), self.outbox.statistics()
        events = mirror.events
        self._reported = {
            "batches": sum(worker.batches for worker in mirror.workers),
            "events": sum(events[name] for name in _EVENTS),
            "refused_payloads": events["refused_payloads"],
            **outbox.counts,
            **self._counts(),
        }
        self._bytes = sum(worker.mirror_bytes for worker in mirror.workers) + outbox.queued_bytes

    def hold(self, asks: HoldAsks) -> HoldReport:
        """Send nothing that comes from now on, until `release`; as `Outbox.hold`."""
        return self.outbox.hold(asks)

    def release(self, token: int) -> bool:
        """End a hold; whether it stood until now."""
        return self.outbox.release(token)

    def reused(self, report: ReuseReport) -> None:
        """What workers have reused, as a router has seen it; unknown ones are ignored."""
        for worker in report.workers:
            for predicted, actual in worker.compared:
                self.mirror.reused(worker.pod, predicted, actual, model=worker.model, rank=worker.rank)

    def not_told(self) -> None:
        """The last report did not arrive, as far as is known: the next one says everything."""
        self._told = self._last_part = None

    @property
    def is_unsteady(self) -> bool:
        """Somebody waits for the next report: it settles, or a state is held back until its blocks are
        with the shards."""
        return not self._is_settled or self._telling.holds_back

    @property
    def is_settled(self) -> bool:
        """As last reported: every worker known from before is heard or given up, and delivered."""
        return self._is_settled

    def _settle(self, part: FleetPart | None) -> bool:
        if self._is_settled or part is None:
            return self._is_settled
        if self._settled_at is None and (self._clock_s() >= self._settle_by_s or self._all_heard(part)):
            self._forget_strangers()
            self._settled_at = self.outbox.mark()
        if self._settled_at is not None:
            self._is_settled = self.outbox.has_delivered(self._settled_at)
        return self._is_settled

    def _forget_strangers(self) -> None:
        """Pods that nobody speaks for here and that are not ordered: heard through a source that is gone,
        or known from a checkpoint, and others follow them by now."""
        with self.mirror.lock:
            workers = list(self.mirror.fleet.workers())
        silent = {worker.pod for worker in workers if worker.feed.is_closed}
        spoken_for = {worker.pod for worker in workers if not worker.feed.is_closed}
        for pod in silent - spoken_for - self._sources.pods:
            self.mirror.remove_pod(pod)

    def _all_heard(self, part: FleetPart) -> bool:
        named = {worker.pod for worker in part.workers}
        return not self.mirror.unheard() and self._sources.servers <= named

    # What it knows of itself.

    @property
    def is_fenced(self) -> bool:
        """A shard has said that this session is over: the process should end, and begin anew."""
        return self.outbox.is_over

    @property
    def failure(self) -> str | None:
        """Why one of its threads has ended; None: all run."""
        if self.outbox.failure is not None:
            return f"outbox: {self.outbox.failure!r}"
        return self._sockets.statistics().failure

    def statistics(self) -> ServiceStatistics:
        return ServiceStatistics(
            mirror=self.mirror.statistics(),
            sockets=self._sockets.statistics(),
            outbox=self.outbox.statistics(),
            counts=self._counts(),
        )

    def _counts(self) -> dict[str, int]:
        kept = self._checkpoints.counts if self._checkpoints is not None else {}
        return {**self._sources.counts, **kept}


def _pairs(leases: Iterable[Lease]) -> list[tuple[int, int]]:
    return [(lease.first, lease.count) for lease in leases]
