"""Lanes of a fleet, and the stores of KV files that have lanes of their own."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping

from kvatlas.index._native import Keyspace
from kvatlas.index.errors import InputError
from kvatlas.index.scores import Worker
from kvatlas.ingest.config import AtlasConfig, PodConfig
from kvatlas.ingest.numbering import Numbers
from kvatlas.ingest.outlet import Outlet
from kvatlas.ingest.worker_state import StoreState, WorkerState

DISK, STORAGE = 4, 8


class ModelState:
    """One model: its keyspace, its workers, its stores."""

    def __init__(self, name: str, block_size: int | None, lora_names: dict[int, str]) -> None:
        self.name = name
        self.block_size_configured = block_size
        self.block_size = 0
        self.keyspace: Keyspace | None = None
        self.lora_names = lora_names
        self.workers: dict[Worker, WorkerState] = {}
        self.stores: dict[str, StoreState] = {}

    def tier_of(self, store: str) -> int:
        return DISK if store.startswith(f"{self.name}/disk@") else STORAGE


class FleetStores:
    """Who has which lane, and which stores there are. One writer at a time; `lane_names` is read any time.

    A store is that of one pod's disk, or is named by its pods, or is the one of its model's pods that name
    none. The last is kept only where all pods are heard: else the removal of a file could be heard
    elsewhere.
    """

    def __init__(
        self, models: dict[str, ModelState], outlet: Outlet, numbers: Numbers, config: AtlasConfig
    ) -> None:
        self._models = models
        self._outlet = outlet
        self._numbers = numbers
        self._config = config
        self.lane_names: dict[int, tuple[str, int, int] | str] = {}

    def lane(self, name: tuple[str, int, int] | str) -> int:
        """A free lane. Raises InputError when there is none."""
        try:
            lane = self._numbers.lane()
        except InputError:
            if not self._drop_unused():
                raise
            lane = self._numbers.lane()
        self.lane_names[lane] = name
        return lane

    def give_back(self, lane: int) -> None:
        """It is emptied, and another's some time."""
        self._outlet.clear_lane(lane)
        self.lane_names.pop(lane, None)
        self._numbers.give_back_lane(lane)

    def store(self, model: ModelState, name: str) -> StoreState:
        """The model's store of this name, perhaps a new one. Raises InputError without a lane for it."""
        if name not in model.stores:
            config = self._config
            lane = self.lane(name)
            model.stores[name] = StoreState(name, lane, config.store_blocks_max, config.store_known_max)
        return model.stores[name]

    def forget_meanings(self, model: ModelState) -> None:
        """The model's block keys are others now: files stay known, and wait for what they mean."""
        for store in model.stores.values():
            store.native.forget_meanings()
            self._outlet.clear_lane(store.lane)

    def need_groups(self, model: ModelState, worker: WorkerState, groups: int) -> None:
        """A file counts for the worker's stores once it is there for these cache groups, as bits, and those
        of the other workers attached."""
        worker.full_groups = groups or worker.full_groups  # a restarted one may have named none yet
        self.judge_groups(model, worker)

    def judge_groups(self, model: ModelState, worker: WorkerState) -> None:
        """The worker's groups, or whether it is there, may have changed."""
        for store in worker.stores.values():
            attached = (other for other in model.workers.values() if store.name in other.stores)
            needed = functools.reduce(operator.or_, (other.full_groups for other in attached), 0)
            if needed:
                tier = model.tier_of(store.name)
                self._outlet.apply(store.native.need_groups(needed, self._outlet.n_shards, tier))

    def of_tier(self, worker: WorkerState, tier: int) -> str | None:
        """The store that a worker's events of disk or storage are of; None: they are left out."""
        named = worker.config.stores[0] if worker.config.stores else ""
        if worker.announces is not None:
            named = worker.announces
        if tier == DISK:
            return f"{worker.model}/disk@{worker.pod}" if worker.announces is None else None
        if named:
            return named
        return _unnamed(worker.model) if self._outlet.hears_whole_fleet else None

    def of_config(self, model: ModelState, config: PodConfig) -> dict[str, StoreState]:
        """Those that a pod names. Raises InputError without lanes for them."""
        return {name: self.store(model, name) for name in config.stores}

    def is_kept(self, model: str, name: str, pods: Mapping[str, PodConfig]) -> bool:
        """Whether a store that was here once may be here again."""
        if self._outlet.hears_whole_fleet or name != _unnamed(model):
            return True
        return any(name in config.stores for config in pods.values())

    def _drop_unused(self) -> bool:
        """Where lanes run out: forget the oldest store that no worker is attached to."""
        for model in self._models.values():
            attached = {name for worker in model.workers.values() for name in worker.stores}
            for name in [name for name in model.stores if name not in attached]:
                dropped = model.stores.pop(name)
                dropped.native.retire()  # mirrors may still name it for removals; its lane is another's soon
                self.give_back(dropped.lane)
                return True
        return False


def _unnamed(model: str) -> str:
    return f"{model}/storage"
