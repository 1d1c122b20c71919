"""Where what mirrors tell goes: into tables of this process, or gathered for whoever carries it on."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Protocol

from kvatlas.index.deltas import clear_lanes
from kvatlas.index.groups import Group
from kvatlas.index.shards import ShardedIndex
from kvatlas.ingest._native import DeltaLog, Mirror
from kvatlas.ingest.config import PodConfig


class Outlet(Protocol):
    """Takes the residency that a fleet's mirrors tell. All but `statistics` is called by one writer
    at a time."""

    @property
    def n_shards(self) -> int:
        """What mirrors divide their deltas by."""
        ...

    @property
    def hears_whole_fleet(self) -> bool:
        """Whether the events of all pods end here: else a store that pods share without naming it may
        lose files that only others hear of."""
        ...

    @property
    def changed(self) -> threading.Event | None:
        """Set whenever something has been told; None: nobody waits."""
        ...

    def join(self, mirror: Mirror) -> None:
        """What this mirror applies goes here from now on."""

    def apply(self, deltas: Sequence[bytes]) -> None:
        """Delta records, one buffer a shard."""

    def clear_lane(self, lane: int) -> None: ...
    def tell(self, worker: int, groups: Sequence[Group], stores: Sequence[int], config: PodConfig) -> None:
        """What a worker consists of now, before any delta that says so; no groups: nothing, or it is gone.
        `stores`: lanes."""

    def statistics(self) -> list[dict[str, Any]]:
        """Of each table."""
        ...

    def close(self) -> None: ...


class TableOutlet:
    """Into the tables of an index in this process: visible when a call returns."""

    hears_whole_fleet = True
    changed = None

    def __init__(self, index: ShardedIndex) -> None:
        self._index = index
        self.n_shards = len(index.tables)
        self.apply = index.apply
        self.clear_lane = index.remove_lane
        self.statistics = index.statistics
        self.close = index.close

    def join(self, mirror: Mirror) -> None:
        mirror.set_tables(self._index.tables)

    def tell(self, worker: int, groups: Sequence[Group], stores: Sequence[int], config: PodConfig) -> None:
        self._index.roster.set(
            worker,
            groups,
            stores if groups else [],
            chunk_blocks=config.offload_chunk_blocks,
            recomputes_last_block=config.recomputes_last_block,
            drops_matched_block=config.drops_matched_block,
        )


class GatheringOutlet:
    """Into one log, in the order of all that is told, until it is taken.

    Any thread may take. `bytes_max` bounds what waits: beyond, all of it is dropped, `lost` rises, and
    whoever carries it on must load the whole content anew.
    """

    n_shards = 1
    hears_whole_fleet = False

    def __init__(self, bytes_max: int = 64 << 20) -> None:
        self._log = DeltaLog(bytes_max)
        self.changed = threading.Event()

    @property
    def lost(self) -> int:
        """Times that what waited was dropped."""
        return self._log.lost

    def take(self) -> list[bytes]:
        """What has been gathered since the last call, in pieces of whole records."""
        return list(iter(self._log.take, b""))

    def join(self, mirror: Mirror) -> None:
        mirror.set_log(self._log)

    def apply(self, deltas: Sequence[bytes]) -> None:
        for delta in deltas:
            self._log.append(delta)
        self.changed.set()

    def clear_lane(self, lane: int) -> None:
        self.apply([clear_lanes([lane])])

    def tell(self, worker: int, groups: Sequence[Group], stores: Sequence[int], config: PodConfig) -> None:
        self.changed.set()  # it is read from the fleet itself

    def statistics(self) -> list[dict[str, Any]]:
        return []

    def close(self) -> None: ...
