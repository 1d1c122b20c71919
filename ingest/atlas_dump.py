"""A dump, shown by an embedded atlas: what it says of workers that the atlas does not hear itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

from kvatlas.index.dumps.dump_file import DumpReader
from kvatlas.index.dumps.loading import renamed_sections
from kvatlas.index.dumps.meta import keyspaces_of, require_keyspaces
from kvatlas.index.errors import InputError
from kvatlas.index.groups import Group
from kvatlas.index.keys import Algorithm
from kvatlas.index.scores import Worker
from kvatlas.index.shards import ShardedIndex
from kvatlas.index.view import FleetPart, WorkerView, is_heard, name_of
from kvatlas.ingest.fleet_mirror import FleetMirror
from kvatlas.ingest.numbering import Numbers
from kvatlas.ingest.shown_dump import LoadedReport, ShownDump

LaneName = tuple[str, int, int] | str


class GuestPart:
    """What readers know of workers that are only shown. Its maps are replaced, never changed."""

    def __init__(self, part: FleetPart) -> None:
        self.part = part
        self.truths: Mapping[int, WorkerView] = {view.number: view for view in part.workers}
        self.names: Mapping[int, Worker] = {view.number: (view.pod, view.rank) for view in part.workers}
        self.lane_names: dict[int, LaneName] = {lane: name for name, lane in part.stores.items()}
        for view in part.workers:
            for place, group in enumerate(view.groups):
                self.lane_names[group.lane] = (view.pod, view.rank, place)


class AtlasGuests:
    """Tells the atlas's tables and roster what a `ShownDump` shows. Called under the write lock only."""

    name = "dump"

    def __init__(self, index: ShardedIndex, numbers: Numbers) -> None:
        """`numbers`: the fleet's own, so that no lane is two owners'."""
        self.numbers = numbers
        self.shown = GuestPart(FleetPart())
        self._index = index

    def load(self, sections: Iterable[bytes], lanes: dict[int, int] | None = None) -> None:
        self._index.load(sections if lanes is None else renamed_sections(sections, lanes))

    def remove_lanes(self, lanes: Iterable[int]) -> None:
        for lane in lanes:
            self._index.remove_lane(lane)

    def set_part(self, part: FleetPart) -> None:
        before = {number: _member(view, self.shown.part) for number, view in self.shown.truths.items()}
        after = {view.number: _member(view, part) for view in part.workers}
        self.shown = GuestPart(part)
        for number in before.keys() - after.keys():
            self._index.roster.set(number, [], [])
        for number, member in after.items():
            if before.get(number) != member:  # most often only the age of the dump reads differently
                with contextlib.suppress(InputError):  # of a release that knows more: it scores nothing
                    self._index.roster.set(number, *member)


def _member(view: WorkerView, part: FleetPart) -> tuple[tuple[Group, ...], list[int], int, bool, bool]:
    """What matching must know of a worker: arguments of `Roster.set`."""
    stores = [part.stores[name] for name in view.stores] if view.groups else []
    return view.groups, stores, view.chunk_blocks, view.recomputes_last_block, view.drops_matched_block


class AtlasDump:
    """The dump that an atlas shows beside what it hears. Any thread may call any method."""

    def __init__(
        self,
        mirror: FleetMirror,
        guests: AtlasGuests,
        *,
        algorithm: Algorithm,
        hash_seed: str,
        workers_max: int,
    ) -> None:
        self._mirror = mirror
        self._algorithm: Algorithm = algorithm
        self._hash_seed = hash_seed
        self._workers_max = workers_max
        self._shown = ShownDump(guests)
        self._is_shown = False
        mirror.fleet.followers.append(self._follow)

    def load(self, dump: DumpReader) -> LoadedReport:
        """As `Atlas.load_dump`. What is read comes before the write lock; batches wait for the rest."""
        meta, sections = dump.meta, list(dump)
        sizes = {model: space.block_size_tokens for model, space in meta.keyspaces.items()}
        with self._mirror.lock:
            # A model that nobody here has heard of will have the block size that the dump says.
            parts = [FleetPart(block_sizes=sizes), self._mirror.part()]
            require_keyspaces(meta, keyspaces_of(parts, self._algorithm, self._hash_seed))
            self._require_room(meta.parts)
            self._is_shown = True
            self._follow()
            self._shown.load(meta.parts, sections, meta.created_s)
            for model, size in sizes.items():
                self._mirror.set_block_size(model, size)
            return self._shown.report()

    def _require_room(self, parts: Iterable[FleetPart]) -> None:
        known = {name_of(view) for view in self._mirror.part().workers}
        new = {name_of(view) for part in parts for view in part.workers} - known
        n = len(self._mirror.fleet.names) + len(new)
        if n > self._workers_max:
            raise InputError(f"workers: expected at most {self._workers_max}, got {n} with the dump's")

    def _follow(self) -> None:
        """What has been heard by now is no dump's. The caller holds the write lock."""
        if self._is_shown:
            self._shown.hear([name_of(view) for view in self._mirror.part().workers if is_heard(view)])
            self._shown.refresh()
