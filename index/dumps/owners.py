"""Who the lanes of a content are: groups of workers, and stores, by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from kvatlas.index.view import FleetPart


class LaneOwner(NamedTuple):
    """What a lane is, in words that another index knows too."""

    model: str = ""
    pod: str = ""
    rank: int = 0
    """Data-parallel rank."""
    group: int = 0
    """Place among the cache groups of the worker."""
    store: str = ""
    """Name of the store; a worker's lane has none."""

    def __str__(self) -> str:
        return self.store or f"{self.pod}/{self.rank} group {self.group} of {self.model}"


class LaneMatch(NamedTuple):
    """Which lanes of one fleet are which of another."""

    lanes: dict[int, int]
    missing: tuple[LaneOwner, ...]
    """Of the first fleet, without a lane in the second."""


def owners_of(parts: Iterable[FleetPart]) -> dict[int, LaneOwner]:
    """The owner of each lane that the parts name. Of two lanes with one owner the first counts."""
    owners: dict[int, LaneOwner] = {}
    known: set[LaneOwner] = set()
    for lane, owner in _named(parts):
        if lane not in owners and owner not in known:
            owners[lane] = owner
            known.add(owner)
    return owners


def _named(parts: Iterable[FleetPart]) -> Iterable[tuple[int, LaneOwner]]:
    for part in parts:
        for worker in part.workers:
            for place, group in enumerate(worker.groups):
                yield group.lane, LaneOwner(worker.model, worker.pod, worker.rank, place)
        for name, lane in part.stores.items():
            yield lane, LaneOwner(store=name)


def lanes_between(parts: Iterable[FleetPart], others: Iterable[FleetPart]) -> LaneMatch:
    """For each lane that `parts` name, the lane with the same owner among `others`."""
    lane_of_owner = {owner: lane for lane, owner in owners_of(others).items()}
    lanes: dict[int, int] = {}
    missing: list[LaneOwner] = []
    for lane, owner in owners_of(parts).items():
        if owner in lane_of_owner:
            lanes[lane] = lane_of_owner[owner]
        else:
            missing.append(owner)
    return LaneMatch(lanes, tuple(missing))
