"""Which actors there should be, and what is done about those that are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import filterfalse
from typing import Literal, NamedTuple, Protocol

from kvatlas.actors.directory.service import DirectoryService
from kvatlas.actors.orders import is_guest

Kind = Literal["shard", "subscriber", "scorer", "tokenizer"]
_PATIENCE_MAX = 16
_END_S = 3.0


class ActorSpec(NamedTuple):
    """An actor that should be there."""

    kind: Kind
    name: str
    """In Ray."""
    args: tuple[object, ...]
    """Of its class, after the cluster's name and before its settings."""
    node: str = ""
    """Ray's id of the node that it should be on; empty: any."""
    is_bound: bool = False
    """Rather nowhere than on another node."""


class Yard(Protocol):
    """Where actors are made and ended. Calls may take a while; none raises for an actor that is not there."""

    def begin(self, spec: ActorSpec) -> None:
        """Make it, unless one of this name is there."""

    def restart(self, name: str) -> None:
        """End its process, whatever it does; another takes its place."""

    def end(self, name: str) -> None:
        """End it for good."""


@dataclass
class _Known:
    began_s: float
    """When it was begun, or its process last ended by us."""
    node: str
    """That it was bound to; empty: not known."""
    patience: int = 1
    unwanted_s: float | None = None


class Supervision:
    """Begins actors that are wanted, replaces processes that are silent, ends what is not wanted.

    A crashed process is replaced by Ray; this is for those that are there and do not speak, and for
    what Ray has given up. Time given to a process doubles each time that it was ended, up to sixteen
    times, so that a busy machine is not made busier. One thread at a time.
    """

    def __init__(self, yard: Yard, silent_s_max: float, clock_s: Callable[[], float]) -> None:
        self._yard = yard
        self._silent_s_max = silent_s_max
        self._clock_s = clock_s
        self._known: dict[str, _Known] = {}
        self.counts: Counter[str] = Counter()

    def adopt(self, names: Iterable[str]) -> None:
        """Actors that are there already: those that are not wanted are ended."""
        for name in names:
            self._known.setdefault(name, _Known(self._clock_s(), ""))

    def step(self, wanted: Mapping[str, ActorSpec], heard_s: Mapping[str, float]) -> None:
        """`heard_s`: when each was last heard, by name; who is never heard is left to Ray."""
        now_s = self._clock_s()
        for name, spec in wanted.items():
            known = self._known.get(name)
            if known is not None and spec.is_bound and known.node not in ("", spec.node):
                self._yard.end(name)  # it was on a node that is gone
                known = None
            if known is None:
                self._known[name] = _Known(now_s, spec.node)
                self._yard.begin(spec)
                self.counts["actors_begun"] += 1
            else:
                known.unwanted_s = None
                if spec.kind != "scorer":
                    self._watch(spec, known, heard_s.get(name, 0.0), now_s)
        for name in [name for name in self._known if name not in wanted]:
            self._let_go(name, self._known[name], now_s)

    def _watch(self, spec: ActorSpec, known: _Known, heard_s: float, now_s: float) -> None:
        if heard_s > known.began_s:
            known.patience = 1
        silent_s = now_s - max(heard_s, known.began_s)
        if silent_s <= self._silent_s_max * known.patience:
            return
        known.began_s = now_s
        known.patience = min(2 * known.patience, _PATIENCE_MAX)
        self.counts["actors_replaced"] += 1
        # The first time its process is ended; if that does not help, Ray may have given the actor up.
        if known.patience == 2:
            self._yard.restart(spec.name)
        else:
            self._yard.end(spec.name)
            self._yard.begin(spec)

    def _let_go(self, name: str, known: _Known, now_s: float) -> None:
        """It is told by its orders to end; only then it is ended."""
        if known.unwanted_s is None:
            known.unwanted_s = now_s
        elif now_s - known.unwanted_s > _END_S:
            del self._known[name]
            self._yard.end(name)
            self.counts["actors_ended"] += 1


def wanted_actors(service: DirectoryService) -> dict[str, ActorSpec]:
    """All actors of a cluster but its directory, by name."""
    settings = service.settings
    cluster = settings.cluster
    specs = []
    for generation in service.layouts.all:
        for slot, node in generation.slots.items():
            name = f"{cluster}/shard/{slot.layout}-{slot.shard}-{slot.replica}"
            specs.append(ActorSpec("shard", name, tuple(slot), node, is_bound=bool(node)))
    for subscriber in filterfalse(is_guest, service.orders):
        node = service.placement.node_id(service.assignments.node_of.get(subscriber, ""))
        specs.append(ActorSpec("subscriber", f"{cluster}/subscriber/{subscriber}", (subscriber,), node))
    for number in range(settings.n_scorers):
        node = _dealt(settings.scorer_nodes, number)
        specs.append(ActorSpec("scorer", f"{cluster}/scorer/{number}", (number,), node))
    for number in range(service.pool.wanted):
        node = _dealt(settings.tokenizer_nodes, number)
        specs.append(ActorSpec("tokenizer", f"{cluster}/tokenizer/{number}", (number,), node))
    return {spec.name: spec for spec in specs}


def _dealt(nodes: Sequence[str], number: int) -> str:
    """One node after the other; empty: any."""
    return nodes[number % len(nodes)] if nodes else ""


def heard(service: DirectoryService) -> dict[str, float]:
    """When each actor was last heard, by name."""
    cluster = service.settings.cluster
    at_s: dict[str, float] = {}
    for generation in service.layouts.all:
        for slot, holder in generation.holders.items():
            at_s[f"{cluster}/shard/{slot.layout}-{slot.shard}-{slot.replica}"] = holder.heard_s
    for session in service.sessions.all:
        name = f"{cluster}/subscriber/{session.subscriber}"
        at_s[name] = max(session.heard_s, at_s.get(name, 0.0))
    for member in service.pool.members:
        at_s[f"{cluster}/tokenizer/{member.report.number}"] = member.heard_s
    return at_s
