"""A directory without Ray: its clock is turned by hand, its shards and subscribers are told what to say."""

from __future__ import annotations

from pathlib import Path

import msgspec

from kvatlas.actors.directory.keeping import FileKeeper
from kvatlas.actors.directory.layouts import Slot
from kvatlas.actors.directory.service import DirectoryService
from kvatlas.actors.directory.settings import DirectorySettings
from kvatlas.actors.orders import (
    Replica,
    ShardAsks,
    ShardOrders,
    ShardReport,
    SubscriberAsks,
    SubscriberOrders,
    SubscriberReport,
)
from kvatlas.index.view import FleetPart, WorkerView
from kvatlas.ingest.discovery.pods import DiscoveredPod
from kvatlas.ingest.sockets.source_config import SourceConfig

NODES = {"node1": "10.0.0.1", "node2": "10.0.0.2"}


def pod(name: str) -> DiscoveredPod:
    return DiscoveredPod(pod=name, sources=(SourceConfig(endpoint=f"tcp://{name}:5557"),))


def part_of(*pods: str, model: str = "m") -> FleetPart:
    workers = tuple(
        WorkerView(number=number, pod=name, rank=0, model=model, state="EXACT")
        for number, name in enumerate(pods)
    )
    return FleetPart(block_sizes={model: 16}, workers=workers)


class Shard:
    """A process that holds a shard."""

    def __init__(self, rig: DirectoryRig, slot: Slot) -> None:
        self._rig = rig
        self.slot = slot
        asks = ShardAsks(
            layout=slot.layout, shard=slot.shard, replica=slot.replica, actor="", node_id="node1"
        )
        self.enlisted = rig.service.enlist_shard(asks)
        self.incarnation = self.enlisted.incarnation

    def report(self, loaded: tuple[int, ...] = ()) -> ShardOrders:
        replica = Replica(
            shard=self.slot.shard,
            replica=self.slot.replica,
            incarnation=self.incarnation,
            node_id="node1",
            endpoint="tcp://10.0.0.1:1",
        )
        return self._rig.service.report_shard(
            ShardReport(replica=replica, layout=self.slot.layout, loaded=loaded)
        )


class Process:
    """A subscriber's process."""

    def __init__(self, rig: DirectoryRig, name: str) -> None:
        self._rig = rig
        self.name = name
        self.enlisted = rig.service.enlist_subscriber(SubscriberAsks(name=name, node_id="node1", actor=""))
        self.session = self.enlisted.session

    def report(
        self,
        part: FleetPart | None = None,
        *,
        settled: bool = True,
        loaded: tuple[int, ...] = (),
        lanes_free: int = 100,
    ) -> SubscriberOrders:
        return self._rig.service.report_subscriber(
            SubscriberReport(
                session=self.session,
                name=self.name,
                part=part,
                settled=settled,
                loaded=loaded,
                lanes_free=lanes_free,
                workers_free=100,
            )
        )


class DirectoryRig:
    """One cluster's directory, which can be lost and come back."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.now_s = 1000.0
        self.settings = msgspec.structs.replace(
            DirectorySettings(cluster="c", cluster_id="one", n_shards=2), **settings
        )
        self._folder = folder
        self.service = self._make()

    def _make(self) -> DirectoryService:
        return DirectoryService(self.settings, FileKeeper(self._folder), NODES, lambda: self.now_s)

    def lose_directory(self, **settings: object) -> None:
        self.settings = msgspec.structs.replace(self.settings, **settings)
        self.service = self._make()

    def wait(self, seconds: float) -> None:
        """In small steps, as a directory that runs does."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s = min(end_s, self.now_s + 0.5)
            self.service.tick(NODES)

    def shards(self) -> list[Shard]:
        """A new process in each slot of the layout that is built, or else served; all are up."""
        layouts = self.service.layouts
        shards = [Shard(self, slot) for slot in (layouts.building or layouts.serving).slots]
        for shard in shards:
            shard.report()
        return shards

    def follow(self, *names: str) -> None:
        """These are the pods."""
        self.service.set_pods({name: pod(name) for name in names})
