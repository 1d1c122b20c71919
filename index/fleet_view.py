"""A fleet as readers see it: the parts of all its writers, put together."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from kvatlas.index._native import Keyspace, Roster
from kvatlas.index.errors import InputError
from kvatlas.index.groups import Group
from kvatlas.index.keys import Algorithm, keyspace
from kvatlas.index.scores import Worker
from kvatlas.index.view import FleetPart, WorkerView

_log = logging.getLogger(__name__)
_VERSIONS = itertools.count(1)


class ViewedModel(NamedTuple):
    """What prompts of one model are keyed with."""

    keyspace: Keyspace | None
    block_size: int


class _Member(NamedTuple):
    """What matching must know of a worker."""

    groups: tuple[Group, ...]
    store_lanes: tuple[int, ...]
    chunk_blocks: int
    recomputes_last_block: bool
    drops_matched_block: bool


class FleetView:
    """Workers, models and stores of a fleet at one moment. Immutable: any thread may read it.

    Made anew for every change, so that a match and what is said of its workers are of one moment.
    """

    def __init__(
        self,
        models: Mapping[str, ViewedModel],
        workers: Mapping[int, WorkerView],
        store_lanes: Mapping[str, int],
        members: Mapping[int, _Member],
        roster: Roster,
    ) -> None:
        self.version = next(_VERSIONS)
        """No other one of this process has it."""
        self.models = models
        self.truths = workers
        """Workers by number; a view says itself what can be claimed of it."""
        self.names: Mapping[int, Worker] = {number: (view.pod, view.rank) for number, view in workers.items()}
        self.store_lanes = store_lanes
        self.roster = roster
        self._members = members

    @classmethod
    def of(
        cls,
        parts: Iterable[FleetPart],
        *,
        algorithm: Algorithm = "fold64",
        hash_seed: str = "",
        previous: FleetView | None = None,
    ) -> FleetView:
        """Put parts together. Where two speak of one worker number, the later one is believed.

        `previous`: its roster is used again where nothing that decides matches has changed.
        """
        told = list(parts)
        workers = {view.number: view for part in told for view in part.workers}
        stores: dict[str, int] = {}
        for part in reversed(told):
            stores.update(part.stores)
        members = {
            view.number: _member(view, part.stores, stores)
            for part in told
            for view in part.workers
            if workers[view.number] is view
        }
        unchanged = previous is not None and previous._members == members
        roster = previous.roster if previous is not None and unchanged else _roster(members)
        return cls(_models(told, algorithm, hash_seed), workers, stores, members, roster)

    def degraded(self, says: str) -> FleetView:
        """The same fleet, but nothing that is held is vouched for."""
        workers = {number: degraded_worker(view, says) for number, view in self.truths.items()}
        return FleetView(self.models, workers, self.store_lanes, self._members, self.roster)

    def allowed(self, model: str, pods: Iterable[str] | None) -> bytearray:
        """One byte a worker number: 1 for the model's workers, of these pods where given."""
        mask = bytearray(self._numbers_end)
        wanted = None if pods is None else {pods} if isinstance(pods, str) else pods
        numbers = self._numbers.get(model, {})
        for pod in numbers if wanted is None else wanted:
            for number in numbers.get(pod, ()):
                mask[number] = 1
        return mask

    def workers(self) -> Sequence[WorkerView]:
        """All of them."""
        return list(self.truths.values())

    def views(self, model: str) -> Sequence[WorkerView]:
        """The model's workers."""
        return [view for view in self.truths.values() if view.model == model]

    @property
    def lane_names(self) -> Mapping[int, tuple[str, int, int] | str]:
        """Who has a lane: pod, rank and place among the worker's groups; or the name of a store.
        Made anew each time, for explanations."""
        names: dict[int, tuple[str, int, int] | str] = {lane: name for name, lane in self.store_lanes.items()}
        for view in self.truths.values():
            for place, group in enumerate(view.groups):
                names[group.lane] = (view.pod, view.rank, place)
        return names

    @functools.cached_property
    def _numbers(self) -> dict[str, dict[str, list[int]]]:
        """Worker numbers by model and pod."""
        numbers: dict[str, dict[str, list[int]]] = {}
        for number, view in self.truths.items():
            numbers.setdefault(view.model, {}).setdefault(view.pod, []).append(number)
        return numbers

    @functools.cached_property
    def _numbers_end(self) -> int:
        return max(self.truths, default=-1) + 1


def degraded_part(part: FleetPart, says: str) -> FleetPart:
    """The same part, but nothing that its workers hold is vouched for."""
    workers = tuple(degraded_worker(view, says) for view in part.workers)
    return msgspec.structs.replace(part, workers=workers)


def degraded_worker(view: WorkerView, says: str) -> WorkerView:
    state = view.state if view.state == "BLIND" else "DEGRADED"
    return msgspec.structs.replace(view, state=state, doubts=(says, *view.doubts))


def _member(view: WorkerView, own: Mapping[str, int], all_stores: Mapping[str, int]) -> _Member:
    """A worker's stores by their lanes: as its own writer knows them, else as another does."""
    lanes = (own.get(name, all_stores.get(name)) for name in view.stores)
    return _Member(
        view.groups,
        tuple(lane for lane in lanes if lane is not None) if view.groups else (),
        view.chunk_blocks,
        view.recomputes_last_block,
        view.drops_matched_block,
    )


def _roster(members: Mapping[int, _Member]) -> Roster:
    roster = Roster()
    for number, member in members.items():
        try:
            roster.set(number, *member)
        except InputError as error:  # of a release that knows more: it scores nothing
            _log.warning("worker %d cannot be matched: %s", number, error)
    return roster


def _models(parts: Iterable[FleetPart], algorithm: Algorithm, hash_seed: str) -> dict[str, ViewedModel]:
    """The smallest size that a part knows, until all know it."""
    sizes: dict[str, int] = {}
    for part in parts:
        for model, size in part.block_sizes.items():
            known = sizes.get(model, 0)
            sizes[model] = min(size, known) if size and known else size or known
    models = {}
    for model, size in sizes.items():
        space = keyspace(model, size, algorithm, hash_seed) if 1 <= size <= 4096 else None
        models[model] = ViewedModel(space, size if space is not None else 0)
    return models
