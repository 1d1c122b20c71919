"""Generations of shards: the one that is served, the one that is being filled, those that readers leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from kvatlas.actors.orders import Replica, ShardAsks, ShardReport


class Slot(NamedTuple):
    """A place for one process: one replica of one shard."""

    layout: int
    shard: int
    replica: int


class Shape(NamedTuple):
    """What was asked for, and a layout is built to."""

    n_shards: int
    replicas_per_node: int = 0
    """0: one replica of each shard in all."""
    off_nodes: tuple[str, ...] = ()
    """Nodes without replicas."""


@dataclass
class Holder:
    """The process in a slot."""

    incarnation: int
    heard_s: float
    replica: Replica | None = None
    """None: it has enlisted and is not up yet, or is silent."""
    report: ShardReport | None = None
    has_news: bool = True
    """Its last report was not as the one before, in what readers are shown."""


@dataclass
class Generation:
    """One layout, and who holds its slots."""

    number: int
    shape: Shape
    slots: dict[Slot, str]
    """With the node that each is wanted on; empty: any."""
    holders: dict[Slot, Holder] = field(default_factory=dict)
    began_s: float = 0.0
    served_s: float | None = None
    """When each of its shards first had a process that is up."""
    left_s: float = 0.0
    """When readers were told to leave it."""

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """Of the processes that are up."""
        return tuple(holder.replica for holder in self.holders.values() if holder.replica is not None)

    def move(self, slots: Mapping[Slot, str]) -> bool:
        """Other slots or nodes, as nodes come and go; whether they differ."""
        if slots == self.slots:
            return False
        # What lay on a node that is gone is not heard any more, and what replaces it enlists.
        self.holders = {
            slot: one for slot, one in self.holders.items() if slots.get(slot) == self.slots[slot]
        }
        self.slots = dict(slots)
        return True

    @property
    def is_served(self) -> bool:
        """Whether each shard has a process that is up."""
        return len({replica.shard for replica in self.replicas}) == self.shape.n_shards


class Layouts:
    """The committed layout, at most one that is being built, and those that are left. One thread at a time.

    A layout that is being built is committed by the caller, who keeps its number first: so a directory
    that is lost in the middle comes back to the one before or to this one, and to nothing between.
    Invariants: layout numbers and incarnations are issued once; a slot has one holder, the one with the
    highest incarnation; what a superseded process says is not heard.
    """

    def __init__(
        self,
        serving: Generation,
        *,
        issue_incarnation: Callable[[], int],
        leave_s: float,
        clock_s: Callable[[], float],
    ) -> None:
        """`leave_s`: how long a layout is kept after readers were told to leave it."""
        self.serving = serving
        self.building: Generation | None = None
        self.leaving: list[Generation] = []
        self._issue_incarnation = issue_incarnation
        self._leave_s = leave_s
        self._clock_s = clock_s

    @property
    def all(self) -> tuple[Generation, ...]:
        """All that processes belong to."""
        building = () if self.building is None else (self.building,)
        return (self.serving, *building, *self.leaving)

    def find(self, slot: Slot) -> Generation | None:
        """The layout that wants this slot; None: none does."""
        return next((one for one in self.all if slot in one.slots), None)

    def enlist(self, asks: ShardAsks) -> int | None:
        """An incarnation for a process, which takes the slot; None: it is of no layout, or not any more."""
        slot = Slot(asks.layout, asks.shard, asks.replica)
        generation = self.find(slot)
        if generation is None:
            return None
        incarnation = self._issue_incarnation()
        generation.holders[slot] = Holder(incarnation, self._clock_s())
        return incarnation

    def hear(self, report: ShardReport) -> Holder | None:
        """Take in a report; None: of a process that is superseded or not wanted.

        After a restart of the directory holders are not known: the first that reports is the holder,
        until a newer one does.
        """
        slot = Slot(report.layout, report.replica.shard, report.replica.replica)
        generation = self.find(slot)
        if generation is None:
            return None
        incarnation = report.replica.incarnation
        holder = generation.holders.get(slot)
        if holder is not None and holder.incarnation > incarnation:
            return None
        if holder is None or holder.incarnation < incarnation:
            holder = generation.holders[slot] = Holder(incarnation, 0.0)
        loaded = holder.report.loaded if holder.report is not None else None
        holder.has_news = holder.replica != report.replica or loaded != report.loaded
        holder.heard_s = self._clock_s()
        holder.replica = report.replica
        holder.report = report
        if generation.served_s is None and generation.is_served:
            generation.served_s = holder.heard_s
        return holder

    def build(self, generation: Generation) -> None:
        """Begin to fill a layout; one that was being built is given up."""
        generation.began_s = self._clock_s()
        self.building = generation

    def give_up(self) -> None:
        """The layout being built is not wanted any more."""
        self.building = None

    def can_commit(self, is_filled: bool, fill_s_max: float) -> bool:
        """Whether the layout being built can serve: all its processes are up and filled, or it has had the
        time for that since each shard first had one. Never while one of its shards has none."""
        building = self.building
        if building is None or building.served_s is None or not building.is_served:
            return False
        is_up = len(building.replicas) == len(building.slots)
        return (is_up and is_filled) or self._clock_s() - building.served_s > fill_s_max

    def commit(self) -> None:
        """The layout being built is served from now on; the one before is left."""
        assert self.building is not None
        self.serving.left_s = self._clock_s()
        self.leaving.append(self.serving)
        self.serving, self.building = self.building, None

    def drop_left(self) -> None:
        """Forget layouts that readers have left long ago."""
        deadline_s = self._clock_s() - self._leave_s
        self.leaving = [one for one in self.leaving if one.left_s > deadline_s]

    def drop_silent(self, silent_s_max: float) -> int:
        """Hold those for down that have been silent for too long; returns how many.

        A process that speaks again, and was not replaced, is heard again.
        """
        deadline_s = self._clock_s() - silent_s_max
        silent = [
            holder
            for generation in self.all
            for holder in generation.holders.values()
            if holder.replica is not None and holder.heard_s < deadline_s
        ]
        for holder in silent:
            holder.replica = None
        return len(silent)
