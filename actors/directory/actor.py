"""The directory's actor: the service behind Ray calls, its clock, and the thread that makes actors."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

import ray

from kvatlas.actors.directory.ray_yard import RayKeeper, RayYard, nodes_alive
from kvatlas.actors.directory.service import DirectoryService
from kvatlas.actors.directory.settings import DirectorySettings
from kvatlas.actors.directory.status import ClusterStatus
from kvatlas.actors.directory.status_report import status_of
from kvatlas.actors.directory.supervision import Supervision, heard, wanted_actors
from kvatlas.actors.orders import (
    RouterReport,
    ShardAsks,
    ShardReport,
    SubscriberAsks,
    SubscriberReport,
    TokenizerReport,
    decode,
    encode,
)
from kvatlas.ingest.discovery.discovery import Discovery
from kvatlas.ingest.discovery.pods import decode_pod

_WAIT_S_MAX = 30.0
_NODES_EVERY_S = 1.0
_ENCODED_MAX = 16

_log = logging.getLogger(__name__)


class _DirectoryActor:
    """One per cluster, named `<cluster>/directory`. Its calls run on one event loop, one at a time.

    Structs travel as the bytes of `orders.encode`. Bytes that are no such struct raise DecodeError in
    the caller and change nothing.
    """

    async def __init__(self, settings: bytes) -> None:  # type: ignore[misc]
        # To Ray's log of this process; kvatlas itself, a library, shows nothing.
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
        self._settings = decode(settings, DirectorySettings)
        self._keeper = RayKeeper(self._settings.cluster)
        self._nodes = nodes_alive()
        self._service = DirectoryService(self._settings, self._keeper, self._nodes, time.monotonic)
        self._yard = RayYard(self._settings)
        self._supervision = Supervision(self._yard, self._settings.deadlines.shard_silent_s, time.monotonic)
        self._discovery = Discovery(self._settings.discovery)
        kept = self._keeper.get("registry")
        if kept is not None and self._service.is_restarted:
            self._discovery.registry.restore(kept)
        self._kept_registry = self._discovery.registry.version
        self._followed = (-1, True)
        """What of discovery the service was last told."""
        self._news = asyncio.Event()
        """Set, and replaced by another, when there is a newer view."""
        self._encoded: dict[int, bytes] = {}
        """The newest view as bytes, by the version asked from: many ask the same."""
        self._encoded_version = 0
        self._told = 0
        """Version of the view that those who wait were last woken for."""
        self._going = False
        self._discovery.start()
        self._follow_pods()
        self._tasks = [asyncio.create_task(self._keep_time()), asyncio.create_task(self._supervise())]

    # Readers.

    async def view(self, since: int, wait_s: float) -> bytes:
        """ClusterView, when it is newer than `since`, or else after `wait_s` as it is then."""
        deadline_s = time.monotonic() + min(max(wait_s, 0.0), _WAIT_S_MAX)
        service = self._service
        # Before it is warm a view would lack what is only not heard yet.
        while not service.is_warm or self._told <= since <= service.version:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 and service.is_warm:
                break
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), max(left_s, self._settings.deadlines.tick_s))
        return self._view(since)

    async def layouts(self, since: int, wait_s: float) -> bytes:
        """ClusterView as `view`, but as far as it is known, also before it is warm: for subscribers that
        nobody reads yet. What they load is what it waits for."""
        deadline_s = time.monotonic() + min(max(wait_s, 0.0), _WAIT_S_MAX)
        while not self._service.is_warm:
            if self._service.version != since or time.monotonic() > deadline_s:
                return self._view(since)
            await asyncio.sleep(self._settings.deadlines.tick_s)
        return await self.view(since, deadline_s - time.monotonic())

    def _view(self, since: int) -> bytes:
        if self._service.version != self._encoded_version or len(self._encoded) >= _ENCODED_MAX:
            self._encoded.clear()
            self._encoded_version = self._service.version
        if since not in self._encoded:
            self._encoded[since] = encode(self._service.view(since))
        return self._encoded[since]

    async def secrets(self) -> bytes:
        """ReaderSecrets."""
        return encode(self._service.reader_secrets())

    async def ready(self) -> bool:
        """Whether every shard is up."""
        return self._service.is_ready

    # Actors.

    async def enlist_shard(self, asks: bytes) -> bytes:
        """ShardAsks -> ShardOrders."""
        return encode(self._service.enlist_shard(decode(asks, ShardAsks)))

    async def report_shard(self, report: bytes) -> bytes:
        """ShardReport -> ShardOrders."""
        return encode(self._service.report_shard(decode(report, ShardReport)))

    async def enlist_subscriber(self, asks: bytes) -> bytes:
        """SubscriberAsks -> SubscriberOrders."""
        return encode(self._service.enlist_subscriber(decode(asks, SubscriberAsks)))

    async def report_subscriber(self, report: bytes) -> bytes:
        """SubscriberReport -> SubscriberOrders."""
        return encode(self._service.report_subscriber(decode(report, SubscriberReport)))

    async def report_tokenizer(self, report: bytes) -> bytes:
        """TokenizerReport -> TokenizerOrders."""
        return encode(self._service.report_tokenizer(decode(report, TokenizerReport)))

    async def report_router(self, report: bytes) -> bytes:
        """RouterReport -> RouterOrders."""
        return encode(self._service.report_router(decode(report, RouterReport)))

    # People.

    async def add_pod(self, pod: bytes) -> None:
        """A DiscoveredPod to follow. Raises InputError for one that nobody could."""
        self._discovery.registry.register(decode_pod(pod))
        self._keep_registry()

    async def remove_pod(self, pod: str) -> bool:
        """Whether it was there, by `add_pod` or registration; what other watches find stays."""
        found = self._discovery.registry.withdraw(pod)
        self._keep_registry()
        return found

    async def scale(
        self, shards: int | None, replicas_per_node: int | None, off_nodes: tuple[str, ...] | None
    ) -> None:
        """See DirectoryService.scale."""
        self._service.scale(shards, replicas_per_node, off_nodes)

    async def status(self) -> bytes:
        """ClusterStatus."""
        status: ClusterStatus = status_of(self._service, self._discovery, self._supervision)
        return encode(status)

    async def config(self) -> bytes:
        """Of the cluster, as `start` was given it."""
        return self._settings.config

    async def prepare_down(self) -> None:
        """Makes and watches nothing any more; all who report are told to end."""
        self._service.is_going = self._going = True
        await asyncio.to_thread(self._discovery.stop)

    # What runs beside.

    def _keep_registry(self) -> None:
        """Pods that were registered outlive this process."""
        registry = self._discovery.registry
        version = registry.version
        if version != self._kept_registry:
            self._keeper.put("registry", registry.snapshot())
            self._kept_registry = version

    def _follow_pods(self) -> None:
        """With each tick at most: a storm of registrations is one change a tick."""
        followed = (self._discovery.version, self._service.keeps_pods)
        if followed != self._followed:
            self._followed = followed
            self._service.set_pods(self._discovery.pods())

    async def _keep_time(self) -> None:
        """Ticks, and wakes those who wait for a view, at most so often a second."""
        pause_s = 1 / self._settings.views_per_s_max
        ticked_s = 0.0
        while not self._going:
            await asyncio.sleep(pause_s)
            try:
                if time.monotonic() - ticked_s >= self._settings.deadlines.tick_s:
                    ticked_s = time.monotonic()
                    self._service.tick(self._nodes)
                    self._keep_registry()
                    self._follow_pods()
            except Exception:  # a clock that stops would be worse than whatever this is
                _log.exception("the directory's tick failed, and is tried again")
                self._service.counts["ticks_failed"] += 1
            if self._service.version != self._told and self._service.is_warm:
                self._told = self._service.version
                self._news.set()
                self._news = asyncio.Event()

    async def _supervise(self) -> None:
        """Ray is asked in a thread of its own: it may take its time."""
        looked_s = 0.0
        has_adopted = False
        while not self._going:
            try:
                if not has_adopted:
                    # What a directory that was lost has begun, and nobody wants now, would not be known.
                    self._supervision.adopt(await asyncio.to_thread(self._yard.names))
                    has_adopted = True
                if time.monotonic() - looked_s >= _NODES_EVERY_S:
                    looked_s = time.monotonic()
                    self._nodes = await asyncio.to_thread(nodes_alive)
                wanted, at_s = wanted_actors(self._service), heard(self._service)
                await asyncio.to_thread(self._supervision.step, wanted, at_s)
            except Exception:  # whatever Ray raises: the next step tries again
                _log.exception("supervision failed, and is tried again")
                self._service.counts["supervisions_failed"] += 1
            await asyncio.sleep(self._settings.deadlines.tick_s)


DirectoryActor = ray.remote(_DirectoryActor)
