"""The write half of an atlas: what a fleet's servers tell, mirrored worker by worker, and where it goes."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from kvatlas.index.view import FleetPart
from kvatlas.ingest._native import Mirror
from kvatlas.ingest.atlas_report import report
from kvatlas.ingest.atlas_statistics import AtlasStatistics
from kvatlas.ingest.checkpoints import CheckpointReport, Checkpoints
from kvatlas.ingest.config import AtlasConfig, PodConfig
from kvatlas.ingest.feed import Feed, FeedNames
from kvatlas.ingest.fleet_state import FleetState
from kvatlas.ingest.fleet_stores import ModelState
from kvatlas.ingest.fleet_views import part_of
from kvatlas.ingest.intake import Intake
from kvatlas.ingest.numbering import Numbers
from kvatlas.ingest.outlet import GatheringOutlet, Outlet
from kvatlas.ingest.stream.truth import State
from kvatlas.ingest.worker_state import StoreState, WorkerSetup, WorkerState

_UNHEARD = ("never_heard", "reconnected", "replaying", "joining", "gap", "suspect")


class Content(NamedTuple):
    """All that one worker or store holds at one moment."""

    lanes: tuple[int, ...]
    """Its own."""
    records: bytes
    """Delta records that fill them, when they are empty."""
    before: list[bytes]
    """What all workers and stores have told until that moment, as `take` has it."""


class FleetMirror:
    """Mirrors of all workers of a fleet, fed by their events; what they tell goes to an outlet.

    Any thread may call any method; calls take turns. `hash_seed` seeds the block keys.
    """

    def __init__(
        self,
        config: AtlasConfig,
        outlet: Outlet,
        numbers: Numbers,
        *,
        hash_seed: str,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._outlet = outlet
        self._gathered = outlet if isinstance(outlet, GatheringOutlet) else None
        self.fleet = FleetState(config, hash_seed, outlet, numbers)
        """Changed under `lock` only."""
        self._intake = Intake(config, self.fleet, clock_s, outlet.changed)
        self._transitions: Counter[str] = Counter()
        self.fleet.begin(
            WorkerSetup(
                outlet=outlet,
                apply=self._intake.apply,
                clock_s=clock_s,
                limits=config.stream,
                agreement=config.agreement,
                changed=self._changed,
                noted=self.fleet.note_change,
            )
        )
        self._callers = self.feed()
        restored = self.feed()
        restored.close()
        self._checkpoints = Checkpoints(self._intake, restored)

    def _changed(self, old: State, new: State) -> None:
        self._transitions[f"{old}->{new}"] += 1

    @property
    def lock(self) -> threading.RLock:
        """Who holds it sees nothing change."""
        return self._intake.lock

    # What servers tell.

    def ingest(self, topic: bytes, seq: int, payload: bytes) -> None:
        """Apply one message of a model server; as `Atlas.ingest`."""
        self._callers.receive(topic, seq, payload)

    def feed(
        self,
        names: FeedNames | None = None,
        has_replay: bool | Callable[[str, int], bool] = False,
        *,
        introduces: bool = False,
    ) -> Feed:
        """A door for one source of batches; as `Atlas.feed`."""
        answers = has_replay if callable(has_replay) else lambda pod, rank: bool(has_replay)
        return Feed(self._intake, names or FeedNames(), answers, introduces=introduces)

    # What its owner tells.

    def set_pod(self, pod: str, config: PodConfig | None) -> None:
        """What is known of a pod, in the configuration's place; None: nothing any more.

        What its store has that was told before it is named stays unknown. Without lanes for its stores it
        stays as it is until there are (`numbers_came`).
        """
        with self.lock:
            if config is None:
                self.fleet.pods.pop(pod, None)
            else:
                self.fleet.pods[pod] = config
            for worker in [worker for worker in self.fleet.workers() if worker.pod == pod]:
                self.fleet.configure(worker)

    def remove_pod(self, pod: str) -> None:
        """Forget a pod: its lanes are emptied; stores keep what it wrote. Unknown pods are ignored."""
        with self.lock:
            self.fleet.remove_pod(pod)

    def set_block_size(self, model: str, tokens: int) -> None:
        """Somebody else has heard this block size of a model.

        A smaller one than known empties the model's workers and has their history asked for again; a
        larger one, or one of a model that is configured, changes nothing. Raises InputError when it is
        none, or there is no room for the model.
        """
        with self.lock:
            self.fleet.tell_block_size(model, tokens)

    def numbers_came(self) -> None:
        """There are lanes again: workers that were refused one have their history asked for anew."""
        with self.lock:
            refused, now_s = list(self.fleet.refused), self._intake.clock_s()
            self.fleet.refused.clear()
            for worker in refused:
                self.fleet.configure(worker)
                worker.stream.resync(now_s)

    def reused(
        self, pod: str, predicted_tokens: int, actual_tokens: int, *, model: str, rank: int = 0
    ) -> None:
        """How many tokens of a prompt a worker has reused; as `Atlas.reused`."""
        with self.lock:
            worker = self.fleet.find(model, pod, rank)
            if worker is not None:
                worker.compare_reuse(predicted_tokens, actual_tokens)

    def save(self, folder: str | Path) -> CheckpointReport:
        """Write all that is held to a folder; as `Atlas.save`."""
        return self._checkpoints.save(Path(folder))

    def load(self, folder: str | Path) -> CheckpointReport:
        """Read what `save` has written; as `Atlas.load`."""
        return self._checkpoints.load(Path(folder))

    # What goes out, with a `GatheringOutlet`.

    @property
    def changed(self) -> threading.Event:
        """Set when there is something to take, or `part_version` has risen; clear it before you look."""
        assert self._gathered is not None
        return self._gathered.changed

    @property
    def lost(self) -> int:
        """Times that what was gathered was dropped, at the outlet's bound."""
        return self._gathered.lost if self._gathered is not None else 0

    def take(self) -> list[bytes]:
        """The delta records gathered since the last call, in the order of all workers and stores.

        Pieces of whole records, for one shard; empty with any other outlet. When `lost` has risen,
        records are missing: what was fed with them must be loaded anew.
        """
        return self._gathered.take() if self._gathered is not None else []

    def content(self) -> Iterator[Content]:
        """All that is held, a worker or store at a time; writers wait for one of them at most.

        To load some tables while others are fed, put everything into one order: for each `Content` its
        `before`, then its `records` in the place of all that its lanes held; afterwards, and between
        two of them if need be, what `take` gives. Nothing is lost or doubled then. Tables that are fed
        already leave out the `records`. Lanes that no `Content` names may come in a `before`: of
        workers and groups that are new since the first. One thread does all of it.
        """
        with self.lock:
            workers = list(self.fleet.workers())
            stores = [(model, s) for model in self.fleet.models.values() for s in model.stores.values()]
        for worker in workers:
            with self.lock:
                content = self._content_of(worker)
            if content is not None:
                yield content
        for model, store in stores:
            with self.lock:
                content = self._content_of_store(model, store)
            if content is not None:
                yield content

    def _content_of(self, worker: WorkerState) -> Content | None:
        if worker.removed or worker.mirror is None:
            return None
        lanes = tuple(group.lane for group in worker.groups.values())
        return Content(lanes, worker.mirror.content(1)[0], self.take())

    def _content_of_store(self, model: ModelState, store: StoreState) -> Content | None:
        if model.stores.get(store.name) is not store:
            return None
        return Content((store.lane,), store.native.content(1, model.tier_of(store.name))[0], self.take())

    def part(self) -> FleetPart:
        """What readers should know of the workers."""
        with self.lock:
            return part_of(self.fleet)

    @property
    def part_version(self) -> int:
        """Rises when `part` says something else, unless that is only a detail of a doubt."""
        return self.fleet.version

    def mirrors(self) -> Iterator[Mirror]:
        """Those of the workers that there are now."""
        with self.lock:
            mirrors = [worker.mirror for worker in self.fleet.workers()]
        return (mirror for mirror in mirrors if mirror is not None)

    # What it knows of itself.

    def unheard(self) -> list[tuple[str, int]]:
        """Pods and ranks that are known, and of which nobody has confirmed yet how they are now."""
        with self.lock:
            return [
                (worker.pod, worker.rank)
                for worker in self.fleet.workers()
                if any(map(worker.truth.stands, _UNHEARD))
            ]

    def residency(self, model: str) -> dict[tuple[str, int, int] | str, dict[int, int]]:
        """What the mirrors of a model hold; as `Atlas.residency`."""
        with self.lock:
            return self.fleet.residency(model)

    def statistics(self) -> AtlasStatistics:
        """Counts, sizes and bounds of everything, at one moment; tables where the outlet has some."""
        intake = self._intake
        with intake.lock:
            tables = tuple(self._outlet.statistics())
            return report(self.fleet, tables, intake.counts, self._transitions, intake.clock_s())

    def close(self) -> None:
        """Release what the outlet holds."""
        self._outlet.close()
