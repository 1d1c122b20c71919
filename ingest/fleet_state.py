"""What an atlas keeps per model, worker and store: who has which lane, mirror and number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from kvatlas.index._native import Keyspace
from kvatlas.index.errors import InputError
from kvatlas.index.keys import keyspace
from kvatlas.index.scores import Worker
from kvatlas.index.shards import ShardedIndex
from kvatlas.ingest._native import Decoder, Mirror, Store
from kvatlas.ingest.atlas_statistics import AtlasStatistics, WorkerStatistics
from kvatlas.ingest.config import AtlasConfig

DISK, STORAGE = 4, 8
_LANES_MAX = 65535
_BLOCK_SIZE_MAX = 4096
_APPLIED = (
    "events_stored",
    "events_removed",
    "events_cleared",
    "blocks_stored",
    "blocks_removed",
    "orphaned",
    "orphans_stitched",
)
"""Counts of a mirror that are no skips."""
_STREAM = ("batches", "refused_payloads")


class StoreState:
    """A store of KV files with its lane."""

    def __init__(self, name: str, lane: int, blocks_max: int) -> None:
        self.name = name
        self.lane = lane
        self.native = Store(lane, blocks_max)


class WorkerState:
    """One worker: its mirror, its lanes by group, and how far its stream has come."""

    def __init__(self, pod: str, rank: int, model: str, number: int, mirror: Mirror, space: Keyspace) -> None:
        self.pod = pod
        self.rank = rank
        self.model = model
        self.number = number
        self.mirror = mirror
        self.keyspace = space
        self.lanes: dict[int, int] = {}
        self.full_groups: set[int] = set()
        self.stores: dict[str, StoreState] = {}
        self.last_event_ts: float | None = None
        self.sequence: int | None = None
        self.batches = self.gaps = self.missed_batches = self.restarts = self.repeated_batches = 0
        self._last_payload = (0, b"")

    def admits(self, seq: int, payload: bytes) -> bool:
        """Judge a batch by its sequence number; False: it is the last one once more.

        A number that jumps ahead is counted as a gap. One that runs backwards, or the last one
        with another payload, is another incarnation of the server: the worker is emptied first.
        """
        last = self.sequence
        # Length and head: a batch begins with the time at which it was made.
        told = (len(payload), payload[:64])
        if last is not None and seq != last + 1:
            if seq > last:
                self.gaps += 1
                self.missed_batches += seq - last - 1
            elif seq == last and told == self._last_payload:
                self.repeated_batches += 1
                return False
            else:
                self.restarts += 1
                self.mirror.restart(self.keyspace)
        self.sequence = seq
        self._last_payload = told
        self.batches += 1
        return True


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


class FleetState:
    """Models, workers and lanes. Changed by one writer at a time; `names` may be read any time."""

    def __init__(self, config: AtlasConfig, hash_seed: str, index: ShardedIndex) -> None:
        self._config = config
        self._hash_seed = hash_seed
        self._index = index
        self.models: dict[str, ModelState] = {}
        self.names: dict[int, Worker] = {}
        """Workers by number; numbers are never used again."""
        self.lane_names: dict[int, tuple[str, int, int] | str] = {}
        self._next_worker = 0
        self._next_lane = 0
        self._free_lanes: list[int] = []
        self._retired: Counter[str] = Counter()
        self._block_size_changes = 0

    def model(self, name: str) -> ModelState:
        state = self.models.get(name)
        if state is None:
            if len(self.models) >= self._config.workers_max:
                raise InputError(f"models: expected at most {self._config.workers_max}, got {name!r} beyond")
            config = self._config.models.get(name)
            size = config.block_size_tokens if config is not None else None
            state = ModelState(name, size, config.lora_names if config is not None else {})
            if size is not None:
                self._set_block_size(state, size)
            self.models[name] = state
        return state

    def learn_block_size(self, state: ModelState, dense_block_size: int) -> None:
        """The index's block is the smallest dense one announced; a smaller one empties the workers."""
        size = dense_block_size
        if size == 0 or size > _BLOCK_SIZE_MAX or (state.block_size and size >= state.block_size):
            return
        self._set_block_size(state, size)
        assert state.keyspace is not None
        self._block_size_changes += len(state.workers)
        for worker in state.workers.values():
            self._restart(worker, state.keyspace)
        for store in state.stores.values():
            store.native.clear()
            self._index.clear_lane(store.lane)

    def _set_block_size(self, state: ModelState, size: int) -> None:
        state.keyspace = keyspace(state.name, size, self._config.algorithm, self._hash_seed)
        state.block_size = size

    def _restart(self, worker: WorkerState, space: Keyspace) -> None:
        worker.keyspace = space
        worker.mirror.restart(space)
        self._index.apply(worker.mirror.take())

    def require_room(self, state: ModelState, pod: str, rank: int) -> None:
        """Raises InputError where the worker is a new one beyond the bound."""
        most = self._config.workers_max
        if len(self.names) >= most and (pod, rank) not in state.workers:
            raise InputError(f"workers: expected at most {most}, got {pod!r} rank {rank} beyond")

    def worker(self, state: ModelState, pod: str, rank: int) -> WorkerState:
        worker = state.workers.get((pod, rank))
        if worker is None:
            assert state.keyspace is not None
            config = self._config
            mirror = Mirror(
                state.keyspace, config.shards, config.ghosts_max, config.orphans_max, config.orphan_bytes_max
            )
            mirror.set_tables(self._index.tables)
            mirror.set_lora_names({number: name for number, name in state.lora_names.items() if number >= 0})
            worker = WorkerState(pod, rank, state.name, self._next_worker, mirror, state.keyspace)
            configured = config.pods.get(pod)
            for name in configured.stores if configured is not None else ():
                worker.stores[name] = self._store(state, name)
            self._next_worker += 1
            state.workers[pod, rank] = worker
            self.names[worker.number] = (pod, rank)
            self._tell(worker)
        return worker

    def prepare(self, worker: WorkerState, batch: Decoder) -> None:
        """Give the worker the lanes and stores that a batch of it names for the first time."""
        state = self.models[worker.model]
        for group in range(64):
            bit = 1 << group
            if batch.group_mask & bit and group not in worker.lanes:
                worker.lanes[group] = self._lane((worker.pod, worker.rank, group))
                worker.full_groups.add(group)
            if batch.full_groups & bit:
                worker.full_groups.add(group)
            if batch.other_groups & bit:
                worker.full_groups.discard(group)
        for tier in (DISK, STORAGE):
            if batch.store_tiers & tier:
                name = self._store_name(worker, tier)
                worker.stores[name] = self._store(state, name)
        self._tell(worker)

    def _tell(self, worker: WorkerState) -> None:
        """Tell mirror and roster what the worker consists of now."""
        for group, lane in worker.lanes.items():
            worker.mirror.set_lane(group, lane, group in worker.full_groups)
        stores = self.models[worker.model].stores
        disk = stores.get(self._store_name(worker, DISK))
        storage = stores.get(self._store_name(worker, STORAGE))
        worker.mirror.set_stores(
            disk.native if disk is not None else None,
            storage.native if storage is not None else None,
            [worker.stores[name].native for name in sorted(worker.stores)],
        )
        lanes = [lane for group, lane in worker.lanes.items() if group in worker.full_groups]
        store_lanes = [store.lane for store in worker.stores.values()]
        self._index.roster.set(worker.number, lanes, store_lanes if lanes else [])

    def _store_name(self, worker: WorkerState, tier: int) -> str:
        if tier == DISK:
            return f"{worker.model}/disk@{worker.pod}"
        configured = self._config.pods.get(worker.pod)
        return configured.stores[0] if configured and configured.stores else f"{worker.model}/storage"

    def _store(self, state: ModelState, name: str) -> StoreState:
        if name not in state.stores:
            state.stores[name] = StoreState(name, self._lane(name), self._config.store_blocks_max)
        return state.stores[name]

    def _lane(self, name: tuple[str, int, int] | str) -> int:
        if self._free_lanes:
            lane = self._free_lanes.pop()
        elif self._next_lane < _LANES_MAX:
            lane = self._next_lane
            self._next_lane += 1
        elif self._drop_unused_store():
            lane = self._free_lanes.pop()
        else:
            raise InputError(f"lanes: expected at most {_LANES_MAX}, got one for {name!r} beyond")
        self.lane_names[lane] = name
        return lane

    def _drop_unused_store(self) -> bool:
        """Where lanes run out: forget the oldest store that no worker is attached to."""
        for state in self.models.values():
            attached = {name for worker in state.workers.values() for name in worker.stores}
            for name in [name for name in state.stores if name not in attached]:
                dropped = state.stores.pop(name)
                dropped.native.clear()  # mirrors may still name it for removals; its lane is another's soon
                self._give_back(dropped.lane)
                return True
        return False

    def _give_back(self, lane: int) -> None:
        self._index.clear_lane(lane)
        self.lane_names.pop(lane, None)
        self._free_lanes.append(lane)

    def remove_pod(self, pod: str) -> None:
        for state in self.models.values():
            for name in [name for name in state.workers if name[0] == pod]:
                worker = state.workers.pop(name)
                self._retired.update(worker.mirror.counts())
                self._index.roster.set(worker.number, [], [])
                self.names.pop(worker.number, None)
                for lane in worker.lanes.values():
                    self._give_back(lane)

    def allowed(self, model: ModelState, pods: Iterable[str] | None) -> bytearray:
        """One byte a worker number: 1 for the model's workers, of these pods where given."""
        mask = bytearray(self._next_worker)
        wanted = None if pods is None else {pods} if isinstance(pods, str) else set(pods)
        for worker in list(model.workers.values()):
            if (wanted is None or worker.pod in wanted) and worker.number < len(mask):
                mask[worker.number] = 1
        return mask

    def residency(self, model: str) -> dict[tuple[str, int, int] | str, dict[int, int]]:
        state = self.models.get(model)
        lanes: dict[tuple[str, int, int] | str, dict[int, int]] = {}
        if state is None:
            return lanes
        for worker in state.workers.values():
            for group, blocks in worker.mirror.residency().items():
                lanes[worker.pod, worker.rank, group] = blocks
        for name, store in state.stores.items():
            tier = DISK if name.startswith(f"{model}/disk@") else STORAGE
            lanes[name] = dict.fromkeys(store.native.keys(), tier)
        return lanes

    def statistics(self, stream: Counter[str]) -> AtlasStatistics:
        totals = Counter(self._retired)
        workers = []
        for state in self.models.values():
            for worker in state.workers.values():
                totals.update(worker.mirror.counts())
                workers.append(_worker_statistics(worker))
        totals.update(stream)
        totals["block_size_changed"] += self._block_size_changes
        tables = tuple(self._index.statistics())
        applied = {name: totals.pop(name, 0) for name in (*_APPLIED, *_STREAM)}
        return AtlasStatistics(
            workers=tuple(workers),
            models={name: state.block_size or None for name, state in self.models.items()},
            stores={
                name: len(store.native)
                for state in self.models.values()
                for name, store in state.stores.items()
            },
            blocks=sum(table["entries"] for table in tables),
            events=applied,
            skips=dict(sorted(totals.items())),
            tables=tables,
        )


def _worker_statistics(worker: WorkerState) -> WorkerStatistics:
    sizes = worker.mirror.sizes()
    return WorkerStatistics(
        pod=worker.pod,
        rank=worker.rank,
        model=worker.model,
        blocks={"gpu": sizes["held_gpu"], "cpu": sizes["held_cpu"]},
        groups=tuple(sorted(worker.lanes)),
        stores=tuple(sorted(worker.stores)),
        closed=sizes["closed"],
        ghosts=sizes["ghosts"],
        orphans=sizes["orphans"],
        mirror_bytes=sizes["bytes"],
        batches=worker.batches,
        sequence=worker.sequence,
        gaps=worker.gaps,
        missed_batches=worker.missed_batches,
        restarts=worker.restarts,
        repeated_batches=worker.repeated_batches,
        last_event_ts=worker.last_event_ts,
    )
