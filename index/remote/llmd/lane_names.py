"""Lanes and llm-d's names for them: there are no numbers in its format."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import NamedTuple

from kvatlas.index.errors import InputError
from kvatlas.index.groups import Group
from kvatlas.index.view import FleetPart, WorkerView

_LANES_END = 65_535
_RANK_MARK = "@dp"
NOBODY_VOUCHES = "by llm-d, nobody vouches"


class LaneName(NamedTuple):
    """A lane as llm-d has it."""

    pod: str
    """PodIdentifier of its entries."""
    group: int | None = None
    """KV-cache group; None: its entries name none."""


def pod_identifier(pod: str, rank: int) -> str:
    """How a worker is named where there are only pods.

    llm-d has one name for all ranks of a pod, so that one rank's removal would take another's block;
    so here rank 0 has the pod's name, and the others one of their own.
    """
    return pod if rank == 0 else f"{pod}{_RANK_MARK}{rank}"


def worker_of(identifier: str) -> tuple[str, int]:
    """The pod and rank that `pod_identifier` has made a name of; of any other name rank 0."""
    pod, mark, rank = identifier.rpartition(_RANK_MARK)
    if mark and pod and rank.isascii() and rank.isdigit() and 0 < int(rank[:9]) < 65_536 and rank[0] != "0":
        return pod, int(rank)
    return identifier, 0


class LaneNames:
    """Which lane is which (pod, group). Any thread may call any method.

    With `discovers`, a pod that is read of and has no lane is given one, from the highest number down;
    `discovered_max` bounds them, pods beyond are counted in `refused`. All groups of such a pod are one
    lane: what its groups need of a prompt is nowhere in Redis, and llm-d's own scores do not ask either.
    """

    def __init__(self, *, discovers: bool = False, discovered_max: int = 4096) -> None:
        if not 0 <= discovered_max < _LANES_END:
            raise InputError(f"discovered_max: expected 0 to 65534, got {discovered_max!r}")
        self.version = 0
        """Another number when `part` says something else."""
        self.changes = 0
        """Another number when what a name means may be another lane than before."""
        self.refused = 0
        self._discovered_max = discovered_max if discovers else 0
        self._lock = threading.Lock()
        self._names: dict[int, LaneName] = {}
        self._lanes: dict[LaneName, int] = {}
        self._left_out: set[int] = set()
        self._discovered: dict[str, int] = {}

    def put(self, lane: int, pod: str, group: int | None = None) -> None:
        """Name a lane. Raises InputError where the lane has another name, or the name another lane."""
        name = LaneName(pod, group)
        with self._lock:
            if not 0 <= lane < _LANES_END - self._discovered_max or not pod:
                last = _LANES_END - 1 - self._discovered_max
                raise InputError(
                    f"lane names: expected a lane from 0 to {last} and a pod, got {lane!r}, {pod!r}"
                )
            if self._names.get(lane, name) != name or self._lanes.get(name, lane) != lane:
                raise InputError(
                    f"lane names: expected one name a lane, got {name} for lane {lane}, which is "
                    f"{self._names.get(lane)}; the name has lane {self._lanes.get(name)}"
                )
            self._left_out.discard(lane)
            if lane in self._names:
                return
            self._names[lane] = name
            self._lanes[name] = lane
            self.changes += 1
            self.version += pod in self._discovered

    def lanes(self) -> list[int]:
        """Those that `put` has named."""
        with self._lock:
            return list(self._lanes.values())

    def in_the_way(self, wanted: Mapping[int, LaneName | None]) -> list[int]:
        """Lanes that must be dropped before these can be put, or be left out (None): they have another
        name, or one that another lane is to have."""
        lane_of = {name: lane for lane, name in wanted.items()}
        with self._lock:
            return [
                lane
                for name, lane in self._lanes.items()
                if wanted.get(lane, name) != name or lane_of.get(name, lane) != lane
            ]

    def drop(self, lane: int) -> None:
        """The lane is nobody's any more."""
        with self._lock:
            self._left_out.discard(lane)
            name = self._names.pop(lane, None)
            if name is not None:
                del self._lanes[name]
                self.changes += 1

    def leave_out(self, lane: int) -> None:
        """What is told of this lane is not written: llm-d has no stores, only pods."""
        with self._lock:
            self._left_out.add(lane)

    def is_left_out(self, lane: int) -> bool:
        return lane in self._left_out

    def name_of(self, lane: int) -> LaneName:
        """Raises InputError for a lane without one."""
        name = self._names.get(lane)
        if name is None:
            raise InputError(
                f"lane {lane}: expected one with a name for llm-d, got one that nobody has named"
            )
        return name

    def lane_of(self, pod: str, group: int | None) -> int | None:
        """The lane of an entry that was read; None where it is nobody's here."""
        lane = self._lanes.get(LaneName(pod, group))
        if lane is not None or not self._discovered_max:
            return lane
        return self._discovered.get(pod) or self._discover(pod)

    def discovered(self) -> dict[str, int]:
        """Lanes of the pods that were only read of; a worker's number is its lane."""
        with self._lock:
            return dict(self._discovered)

    def part(self, model: str, block_size: int) -> FleetPart:
        """What can be said of the discovered pods: that they were read of by prompts of this model.

        Without those that have been put since: of them somebody here knows more.
        """
        with self._lock:
            own = {name.pod for name in self._lanes}
            others = {pod: lane for pod, lane in self._discovered.items() if pod not in own}
        return FleetPart(
            block_sizes={model: block_size},
            workers=tuple(_worker_view(pod, lane, model) for pod, lane in others.items()),
        )

    def _discover(self, pod: str) -> int | None:
        with self._lock:
            if pod in self._discovered:
                return self._discovered[pod]
            if len(self._discovered) >= self._discovered_max:
                self.refused += 1
                return None
            lane = _LANES_END - 1 - len(self._discovered)
            self._discovered[pod] = lane
            self._names[lane] = LaneName(pod)
            self.version += 1
            return lane


def _worker_view(identifier: str, lane: int, model: str) -> WorkerView:
    pod, rank = worker_of(identifier)
    return WorkerView(
        number=lane,
        pod=pod,
        rank=rank,
        model=model,
        groups=(Group(lane),),
        state="BLIND",
        doubts=(NOBODY_VOUCHES,),
    )
