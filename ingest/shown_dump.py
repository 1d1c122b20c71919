"""What a dump says of workers, shown until somebody has heard them himself.

A guest of a cluster shows one to all readers, an embedded atlas to its own.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from kvatlas.index.errors import InputError
from kvatlas.index.fleet_view import degraded_worker
from kvatlas.index.view import FleetPart, WorkerName, WorkerView, name_of
from kvatlas.ingest.numbering import Numbers

_HEARD_MAX = 1 << 17
"""Names of workers that were heard; beyond, the oldest are forgotten, which only a later dump notices."""

LaneName = tuple[str, ...]
"""Model, pod, rank and place of the group; or the name of a store."""


class Teller(Protocol):
    """Tells the tables, and the readers."""

    @property
    def name(self) -> str:
        """Of who shows it."""
        ...

    @property
    def numbers(self) -> Numbers: ...
    def load(self, sections: Iterable[bytes], lanes: dict[int, int] | None = None) -> None: ...
    def remove_lanes(self, lanes: Iterable[int]) -> None: ...
    def set_part(self, part: FleetPart) -> None: ...


class LoadedReport(msgspec.Struct, frozen=True, kw_only=True):
    """What of a dump is shown."""

    workers: int = 0
    """Of the dump, that nobody else has heard."""
    heard: int = 0
    """Given up, since somebody has heard them himself."""
    stores: int = 0
    created_s: float = 0.0
    """When the dump was taken, seconds since 1970; 0: nothing is loaded."""


class _Dump(NamedTuple):
    """A dump, with the lanes that it has there; stores under names that are nobody else's."""

    created_s: float
    block_sizes: dict[str, int]
    workers: dict[WorkerName, WorkerView]
    stores: dict[str, int]


_NOTHING = _Dump(0.0, {}, {}, {})


class ShownDump:
    """The content of the newest dump, in lanes of its own. Any thread may call any method.

    A worker that somebody has heard is left out, or given up when that happens later; it comes back with
    no dump.
    """

    def __init__(self, teller: Teller, *, wall_s: Callable[[], float] = time.time) -> None:
        self._teller = teller
        self._wall_s = wall_s
        self._lock = threading.RLock()
        self._dump = _NOTHING
        self._lanes: dict[LaneName, int] = {}
        self._numbers: dict[WorkerName, int] = {}
        self._heard: dict[WorkerName, None] = {}
        """The latest last."""
        self._given_up = 0
        """Workers of the newest dump that somebody has heard."""
        self._says = ""

    def reserve(self, parts: Sequence[FleetPart]) -> int:
        """Take numbers for a dump that is loaded next, and keep them until then, or until `release`; how many
        are missing."""
        with self._lock:
            before, self._dump = self._dump, self._to_be_shown(parts, 0.0)
            try:
                for lease in (self._lease_lanes, self._lease_workers):
                    with contextlib.suppress(InputError):
                        lease()
                lanes, workers = self._named().keys(), self._dump.workers.keys()
                return len(lanes - self._lanes.keys()) + len(workers - self._numbers.keys())
            finally:
                self._dump = before

    def release(self) -> None:
        """What was reserved is not needed."""
        with self._lock:
            self._give_back()

    def load(self, parts: Sequence[FleetPart], sections: Sequence[bytes], created_s: float) -> None:
        """Show this dump in the place of the one before. `created_s`: when it was taken, since 1970.

        Raises DumpError for content that is none, InputError when there are no numbers for so many
        workers and lanes: more may come; nothing has changed then.
        """
        with self._lock:
            before, self._dump = self._dump, self._to_be_shown(parts, created_s)
            try:
                lanes = self._lease_lanes()
                self._lease_workers()
                self._teller.load(sections, lanes)
            except BaseException:
                self._dump = before
                self._give_back()
                raise
            self._given_up = len({name_of(view) for part in parts for view in part.workers})
            self._given_up -= len(self._dump.workers)
            self._give_back()
            self._tell()

    def hear(self, heard: Collection[WorkerName]) -> None:
        """Somebody speaks for these from now on."""
        with self._lock:
            for name in heard:
                self._heard.setdefault(name)
            while len(self._heard) > _HEARD_MAX:
                self._heard.pop(next(iter(self._heard)))
            if not self._dump.workers.keys().isdisjoint(heard):
                before = len(self._dump.workers)
                self._dump = _without(self._dump, heard)
                self._given_up += before - len(self._dump.workers)
                self._give_back()
                self._tell()

    def refresh(self) -> None:
        """The age of the dump is told anew, where it reads differently by now."""
        with self._lock:
            if self._dump.created_s and self._words() != self._says:
                self._tell()

    def report(self) -> LoadedReport:
        with self._lock:
            return LoadedReport(
                workers=len(self._dump.workers),
                heard=self._given_up,
                stores=len(self._dump.stores),
                created_s=self._dump.created_s,
            )

    def _to_be_shown(self, parts: Sequence[FleetPart], created_s: float) -> _Dump:
        return _without(_merged(parts, created_s, self._teller.name), self._heard.keys())

    # Numbers. One owner of a name keeps its lane from dump to dump.

    def _lease_lanes(self) -> dict[int, int]:
        """Lanes for all that is shown, by lanes in the dump."""
        named = self._named()
        for name in named:
            if name not in self._lanes:
                self._lanes[name] = self._teller.numbers.lane()
        return {there: self._lanes[name] for name, there in named.items()}

    def _lease_workers(self) -> None:
        for worker in self._dump.workers:
            if worker not in self._numbers:
                self._numbers[worker] = self._teller.numbers.worker()

    def _give_back(self) -> None:
        """What nothing that is shown has any more."""
        named = self._named()
        gone = [name for name in self._lanes if name not in named]
        if gone:
            self._teller.remove_lanes(sorted(self._lanes[name] for name in gone))
        for name in gone:
            self._teller.numbers.give_back_lane(self._lanes.pop(name))
        for worker in [worker for worker in self._numbers if worker not in self._dump.workers]:
            self._teller.numbers.give_back_worker(self._numbers.pop(worker))

    def _named(self) -> dict[LaneName, int]:
        """Lanes in the dump, by whose they are."""
        named: dict[LaneName, int] = {(name,): lane for name, lane in self._dump.stores.items()}
        for worker, view in self._dump.workers.items():
            for place, group in enumerate(view.groups):
                named[_lane_name(worker, place)] = group.lane
        return named

    # What readers are told.

    def _tell(self) -> None:
        self._says = self._words()
        self._teller.set_part(
            FleetPart(
                block_sizes=self._dump.block_sizes,
                workers=tuple(self._view(name, view) for name, view in self._dump.workers.items()),
                stores={name: self._lanes[(name,)] for name in self._dump.stores},
            )
        )

    def _view(self, name: WorkerName, view: WorkerView) -> WorkerView:
        groups = tuple(
            group._replace(lane=self._lanes[_lane_name(name, place)])
            for place, group in enumerate(view.groups)
        )
        here = msgspec.structs.replace(view, number=self._numbers[name], groups=groups)
        return degraded_worker(here, self._says)

    def _words(self) -> str:
        return f"from a dump of {shown_age(self._wall_s() - self._dump.created_s)} ago"


def shown_age(seconds: float) -> str:
    """In the largest unit that fits: 40 s, 12 min, 3 h, 2 d."""
    for unit_s, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= unit_s:
            return f"{int(seconds // unit_s)} {unit}"
    return f"{max(0, int(seconds // 10) * 10)} s"


def _lane_name(worker: WorkerName, place: int) -> LaneName:
    model, pod, rank = worker
    return model, pod, str(rank), str(place)


def _without(dump: _Dump, names: Collection[WorkerName]) -> _Dump:
    left = {name: view for name, view in dump.workers.items() if name not in names}
    return dump._replace(workers=left)


def _merged(parts: Sequence[FleetPart], created_s: float, guest: str) -> _Dump:
    """Where two parts speak of one worker, the later one is believed.

    A store gets another name than one that is heard of: no live worker may count its copies. Where two
    parts have a lane each for a store, each keeps its own.
    """
    sizes: dict[str, int] = {}
    workers: dict[WorkerName, WorkerView] = {}
    stores: dict[str, int] = {}
    for at, part in enumerate(parts):
        sizes.update({model: size for model, size in part.block_sizes.items() if size})
        names = {name: f"{name}@{guest}" if at == 0 else f"{name}@{guest}#{at}" for name in part.stores}
        stores.update((names[name], lane) for name, lane in part.stores.items())
        for worker in part.workers:
            own = tuple(names[name] for name in worker.stores if name in names)
            workers[name_of(worker)] = msgspec.structs.replace(worker, stores=own)
    return _Dump(created_s, sizes, workers, stores)
