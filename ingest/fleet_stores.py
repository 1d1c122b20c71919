"""Lanes of a fleet, and the stores of KV files that have lanes of their own."""

from __future__ import annotations

from collections.abc import Iterable

from kvatlas.index._native import Keyspace
from kvatlas.index.errors import InputError
from kvatlas.index.scores import Worker
from kvatlas.ingest.config import PodConfig
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
        self, models: dict[str, ModelState], outlet: Outlet, numbers: Numbers, store_blocks_max: int
    ) -> None:
        self._models = models
        self._outlet = outlet
        self._numbers = numbers
        self._store_blocks_max = store_blocks_max
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
            model.stores[name] = StoreState(name, self.lane(name), self._store_blocks_max)
        return model.stores[name]

    def clear(self, model: ModelState) -> None:
        for store in model.stores.values():
            store.native.clear()
            self._outlet.clear_lane(store.lane)

    def of_tier(self, worker: WorkerState, tier: int) -> str | None:
        """The store that a worker's events of disk or storage are of; None: they are left out."""
        if tier == DISK:
            return f"{worker.model}/disk@{worker.pod}"
        if worker.config.stores:
            return worker.config.stores[0]
        return _unnamed(worker.model) if self._outlet.hears_whole_fleet else None

    def of_config(self, model: ModelState, config: PodConfig) -> dict[str, StoreState]:
        """Those that a pod names. Raises InputError without lanes for them."""
        return {name: self.store(model, name) for name in config.stores}

    def is_kept(self, model: str, name: str, pods: Iterable[PodConfig]) -> bool:
        """Whether a store that was here once may be here again."""
        if self._outlet.hears_whole_fleet or name != _unnamed(model):
            return True
        return any(name in pod.stores for pod in pods)

    def _drop_unused(self) -> bool:
        """Where lanes run out: forget the oldest store that no worker is attached to."""
        for model in self._models.values():
            attached = {name for worker in model.workers.values() for name in worker.stores}
            for name in [name for name in model.stores if name not in attached]:
                dropped = model.stores.pop(name)
                dropped.native.clear()  # mirrors may still name it for removals; its lane is another's soon
                self.give_back(dropped.lane)
                return True
        return False


def _unnamed(model: str) -> str:
    return f"{model}/storage"
