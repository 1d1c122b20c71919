"""One session of a cluster for whoever follows no pods: it tells shards what it is told to tell.

ToldCopy ──changes──> Outbox ──messages──> ShardService, wherever it runs

An `Attendance` gets it its session, leases and views, as a subscriber's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from kvatlas.actors.guest.content_records import records_of
from kvatlas.actors.guest.told_copy import ToldCopy
from kvatlas.actors.link.link import ShardLink
from kvatlas.actors.orders import ClusterView, Layout, Lease, Replica, SubscriberOrders, SubscriberReport
from kvatlas.actors.subscriber.holding import HoldAsks, HoldReport
from kvatlas.actors.subscriber.outbox import Outbox, OutboxStatistics
from kvatlas.actors.subscriber.settings import OutboxSettings
from kvatlas.index._native import lanes_of
from kvatlas.index.deltas import clear_lanes
from kvatlas.index.errors import ClusterError, InputError
from kvatlas.index.keys import BLOCK_SIZE_MAX
from kvatlas.index.view import FleetPart
from kvatlas.ingest.numbering import LeasedNumbers
from kvatlas.ingest.step_thread import StepThread


class GuestService:
    """From its orders to its end. Any thread may call any method; `obey`, `report` and `not_told` one at
    a time."""

    def __init__(
        self,
        name: str,
        orders: SubscriberOrders,
        *,
        open_link: Callable[[Replica], ShardLink],
        settings: OutboxSettings | None = None,
        copy_bytes_max: int = 1 << 30,
        lane_rest_s: float = 60.0,
        part_changed: Callable[[], object] = lambda: None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`copy_bytes_max`: of what is kept of what was told. `part_changed` is called when a report has
        something new."""
        self.name = name
        self.session = orders.session
        self.hash_seed = orders.hash_seed
        self.told = ToldCopy(copy_bytes_max)
        self.numbers = LeasedNumbers(rest_s=lane_rest_s, clock_s=clock_s)
        """To name lanes and workers with."""
        self._outbox = Outbox(
            self.told, self.session, open_link, settings, part_changed=part_changed, clock_s=clock_s
        )
        self._view: ClusterView | None = None
        self._following = threading.Lock()
        self._followers: list[Callable[[ClusterView], object]] = []
        self._reported: int | None = None
        self._leaves = False
        self._part_changed = part_changed
        self._delivery = threading.Condition()
        self._stopped = threading.Event()
        self._thread = StepThread("kvatlas-guest", self._step, self.told.changed, failed=self._wake_waiting)
        self._leased: set[int] = set()
        self._leased_workers: set[int] = set()
        self._take_leases(orders)

    def start(self, orders: SubscriberOrders) -> GuestService:
        """Send from now on; returns itself."""
        self.obey(orders)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Send no more. Twice is fine."""
        self._thread.stop()
        self._wake_waiting()
        self._outbox.stop()
        self.told.close()
        self._stopped.set()

    def wait_stopped(self, timeout_s: float) -> bool:
        """Whether `stop` has been called, and is done, in time."""
        return self._stopped.wait(timeout_s)

    # What it is told to tell.

    def tell(self, delta: bytes) -> None:
        """Delta records of any shard, in lanes of its own. Raises InputError, and tells nothing, for lanes
        that are not, or when malformed; ClusterError when it was stopped."""
        self._check(lanes_of(delta))
        self.told.tell(delta)

    def replace(self, lanes: Sequence[int], delta: bytes) -> None:
        """All that these lanes hold becomes what the delta leaves in empty ones. Raises as `tell`."""
        self._check(lanes)
        self.told.replace(lanes, delta)

    def remove_lanes(self, lanes: Iterable[int]) -> None:
        """These lanes hold nothing more."""
        self.tell(clear_lanes(lanes))

    def load(self, sections: Iterable[bytes], lanes: Mapping[int, int] | None = None) -> None:
        """Every lane that these content records (docs/dump_format.md) name holds what they say. `lanes`: what
        they are called here; those that it lacks are left out. None: as there.

        All or nothing. Raises DumpError for what is no content, InputError for lanes not its own.
        """
        sections = tuple(sections)
        told = records_of(sections, lanes)
        self._check(told.lanes)
        self.told.load(sections, lanes, told)

    def set_part(self, part: FleetPart) -> None:
        """Whose its lanes are, for readers. Raises InputError for lanes and worker numbers that are not its
        own, which would hide others', and for block sizes that are none."""
        self._check([group.lane for worker in part.workers for group in worker.groups])
        self._check(part.stores.values())
        strangers = {worker.number for worker in part.workers} - self._leased_workers
        if strangers:
            raise InputError(
                f"workers: expected numbers leased to session {self.session}, got {min(strangers)}"
            )
        for model, size in part.block_sizes.items():
            if not 0 <= size <= BLOCK_SIZE_MAX:
                raise InputError(f"block size of {model!r}: expected 0 to {BLOCK_SIZE_MAX}, got {size}")
        self.told.set_part(part)

    def wait_delivered(self, timeout_s: float) -> None:
        """Wait until every shard has acknowledged all that was told before. Raises ClusterError when that
        takes too long: it is sent on as long as this runs."""
        mark, until_s = self._outbox.mark(), time.monotonic() + timeout_s
        with self._delivery:
            while not self._has_delivered(mark):
                left_s = until_s - time.monotonic()
                if left_s <= 0 or self._thread.is_stopping or self.is_fenced or self.failure:
                    raise ClusterError(f"session {self.session}: {self._why(timeout_s)}")
                self._delivery.wait(left_s)

    def _has_delivered(self, mark: int) -> bool:
        layout = self._layout
        if layout is None or not self._outbox.has_delivered(mark):
            return False
        loaded = set(self._outbox.loaded)
        fed = {replica.shard for replica in layout.replicas if replica.incarnation in loaded}
        return len(fed) == layout.n_shards

    @property
    def _layout(self) -> Layout | None:
        return self._view.serving if self._view is not None else None

    def _why(self, timeout_s: float) -> str:
        if self.is_fenced:
            return "expected to be this cluster's, but a shard says that it is over"
        if self.failure or self._thread.is_stopping:
            return f"expected to be running, got {self.failure or 'stopped'}"
        n_shards = self._layout.n_shards if self._layout is not None else "all"
        loaded = len(self._outbox.loaded)
        return f"expected answers of {n_shards} shards within {timeout_s:g} s, got those of {loaded}"

    def _check(self, lanes: Iterable[int]) -> None:
        if self._stopped.is_set():
            raise ClusterError(f"session {self.session}: expected to be running, got stopped")
        strangers = set(lanes) - self._leased
        if strangers:
            raise InputError(f"lanes: expected those leased to session {self.session}, got {min(strangers)}")

    # What an attendance drives.

    def follow(self, view: ClusterView) -> None:
        """Feed the shards of this view."""
        self._outbox.follow(view)
        with self._following:
            self._view = view
            for follower in self._followers:
                follower(view)

    def tell_views(self, follower: Callable[[ClusterView], object]) -> None:
        """Call it with the newest view, where there is one, and each one from now on."""
        with self._following:
            self._followers.append(follower)
            if self._view is not None:
                follower(self._view)

    def obey(self, orders: SubscriberOrders) -> None:
        """What the directory says."""
        if orders.wants_part:
            self.not_told()
        self._take_leases(orders)

    def report(self) -> SubscriberReport:
        """For the directory; with the part when that has changed since it was last told."""
        version = self.told.part_version
        part = self.told.part() if version != self._reported else None
        self._reported = version
        statistics = self._outbox.statistics()
        return SubscriberReport(
            session=self.session,
            name=self.name,
            part=part,
            loaded=self._outbox.loaded,
            settled=True,
            leaves=self._leaves,
            lanes_free=self.numbers.lanes_free,
            workers_free=self.numbers.workers_free,
            counts=statistics.counts,
            bytes=statistics.queued_bytes + int(self.told.statistics()["bytes"]),
        )

    def leave(self) -> None:
        """The next report says that this session ends; what it has told goes with it."""
        self._leaves = True
        self._part_changed()

    def not_told(self) -> None:
        """The last report did not arrive, as far as is known."""
        self._reported = None

    def hold(self, asks: HoldAsks) -> HoldReport:
        """As `Outbox.hold`."""
        return self._outbox.hold(asks)

    def release(self, token: int) -> bool:
        """As `Outbox.release`."""
        return self._outbox.release(token)

    @property
    def is_unsteady(self) -> bool:
        """Nobody waits for its next report."""
        return False

    @property
    def is_settled(self) -> bool:
        """It takes nobody's place."""
        return True

    @property
    def failure(self) -> str | None:
        """Why its thread has ended; None: it runs."""
        return None if self._thread.failure is None else repr(self._thread.failure)

    @property
    def is_fenced(self) -> bool:
        """A shard has said that this session is over."""
        return self._outbox.is_over

    def statistics(self) -> OutboxStatistics:
        return self._outbox.statistics()

    def _take_leases(self, orders: SubscriberOrders) -> None:
        self.numbers.lease(_pairs(orders.lanes), _pairs(orders.workers))
        self._leased.update(_numbers(orders.lanes))
        self._leased_workers.update(_numbers(orders.workers))

    def _step(self) -> float:
        pause_s = self._outbox.step()
        self._wake_waiting()
        return pause_s

    def _wake_waiting(self) -> None:
        with self._delivery:
            self._delivery.notify_all()


def _numbers(leases: Iterable[Lease]) -> Iterator[int]:
    return (number for lease in leases for number in range(lease.first, lease.first + lease.count))


def _pairs(leases: Iterable[Lease]) -> list[tuple[int, int]]:
    return [(lease.first, lease.count) for lease in leases]
