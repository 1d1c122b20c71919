"""What an atlas keeps per model, worker and store: who has which lane, mirror and number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from kvatlas.index._native import Keyspace
from kvatlas.index.errors import CheckpointError, InputError
from kvatlas.index.groups import Group, GroupKind
from kvatlas.index.keys import Algorithm, keyspace
from kvatlas.index.scores import Worker
from kvatlas.index.shards import ShardedIndex
from kvatlas.ingest._native import Decoder, Mirror
from kvatlas.ingest.config import AtlasConfig, PodConfig
from kvatlas.ingest.feed import Feed
from kvatlas.ingest.stream.truth import Truth
from kvatlas.ingest.worker_state import GroupState, StoreState, WorkerSetup, WorkerState

DISK, STORAGE = 4, 8
_LANES_MAX = 65535
_BLOCK_SIZE_MAX = 4096


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
    """Models, workers and lanes. Changed by one writer at a time; `names` and `truths` are read any time."""

    def __init__(self, config: AtlasConfig, hash_seed: str, index: ShardedIndex) -> None:
        self._config = config
        self._hash_seed = hash_seed
        self._index = index
        self._setup: WorkerSetup | None = None
        self.models: dict[str, ModelState] = {}
        self.names: dict[int, Worker] = {}
        """Workers by number; numbers are never used again."""
        self.truths: dict[int, Truth] = {}
        """The same workers' truths."""
        self.lane_names: dict[int, tuple[str, int, int] | str] = {}
        self.retired: Counter[str] = Counter()
        """Counts of the mirrors that are gone."""
        self.block_size_changes = 0
        self._next_worker = 0
        self._next_lane = 0
        self._free_lanes: list[int] = []

    def begin(self, setup: WorkerSetup) -> None:
        """What workers will be made with."""
        self._setup = setup

    def workers(self) -> Iterator[WorkerState]:
        for state in self.models.values():
            yield from state.workers.values()

    def find(self, model: str, pod: str, rank: int) -> WorkerState | None:
        state = self.models.get(model)
        return state.workers.get((pod, rank)) if state is not None else None

    def add(self, model: str, pod: str, rank: int, feed: Feed) -> WorkerState:
        """A new worker. Raises InputError where there is no room for it."""
        assert self._setup is not None
        most = self._config.workers_max
        if len(self.names) >= most:
            raise InputError(f"workers: expected at most {most}, got {pod!r} rank {rank} beyond")
        state = self._model(model)
        config = self._config.pods.get(pod) or PodConfig()
        worker = WorkerState(pod, rank, model, self._next_worker, config, feed, self._setup)
        worker.learns_block_size = state.block_size_configured is None
        for name in config.stores:
            worker.stores[name] = self._store(state, name)
        self._next_worker += 1
        state.workers[pod, rank] = worker
        self.names[worker.number] = (pod, rank)
        self.truths[worker.number] = worker.truth
        if state.keyspace is not None:
            self._give_mirror(worker, state, state.keyspace)
        return worker

    def _model(self, name: str) -> ModelState:
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

    def learn_block_size(self, speaker: WorkerState, dense_block_size: int) -> None:
        """The index's block is the smallest dense one announced; a smaller one empties the workers.

        The batch that the speaker announces it in is applied afterwards.
        """
        size, state = dense_block_size, self.models[speaker.model]
        if size == 0 or size > _BLOCK_SIZE_MAX or (state.block_size and size >= state.block_size):
            return
        space = self._set_block_size(state, size)
        for worker in state.workers.values():
            if worker.mirror is None:
                self._give_mirror(worker, state, space)
                continue
            is_first = worker is speaker and worker.batches == 1
            self.block_size_changes += not is_first
            worker.empty(space, is_first=is_first)
        for store in state.stores.values():
            store.native.clear()
            self._index.clear_lane(store.lane)

    def _set_block_size(self, state: ModelState, size: int) -> Keyspace:
        space = state.keyspace = keyspace(state.name, size, self._config.algorithm, self._hash_seed)
        state.block_size = size
        return space

    def _give_mirror(self, worker: WorkerState, state: ModelState, space: Keyspace) -> None:
        config = self._config
        mirror = Mirror(space, config.shards, config.ghosts_max, config.orphans_max, config.orphan_bytes_max)
        mirror.set_tables(self._index.tables)
        mirror.set_lora_names({number: name for number, name in state.lora_names.items() if number >= 0})
        worker.keyspace = space
        worker.mirror = mirror
        if worker.truth.stands("missed"):
            mirror.doubt()
        self._tell(worker)

    def prepare(self, worker: WorkerState, batch: Decoder) -> None:
        """Give the worker the lanes and stores that a batch of it names for the first time.

        Raises InputError when no lane is left.
        """
        state = self.models[worker.model]
        for number in range(64):
            if batch.group_mask >> number & 1:
                self._see_group(worker, number)
        for number, kind, window, size in batch.groups():
            group = self._see_group(worker, number)  # also where it stores nothing yet: the engine needs it
            worker.groups[number] = group._replace(
                kind=kind if kind is not None else group.kind,
                window_tokens=window or group.window_tokens,
                block_size_tokens=size or group.block_size_tokens,
            )
        for tier in (DISK, STORAGE):
            if batch.store_tiers & tier:
                name = self._store_name(worker, tier)
                worker.stores[name] = self._store(state, name)
        self._tell(worker)

    def _see_group(self, worker: WorkerState, number: int) -> GroupState:
        """The worker's group of this number; one from before a restart is as new but for its lane."""
        group = worker.groups.get(number)
        if group is None:
            group = GroupState(self._lane((worker.pod, worker.rank, number)))
        elif worker.unseen_groups >> number & 1:
            group = GroupState(group.lane)
        worker.unseen_groups &= ~(1 << number)
        worker.groups[number] = group
        return group

    def _tell(self, worker: WorkerState) -> None:
        """Tell mirror and roster what the worker consists of now."""
        assert worker.mirror is not None
        chunk_tokens = self._config.attention_chunk_tokens(worker.model)
        groups = []
        for number, state_of_group in sorted(worker.groups.items()):
            is_draft = number in worker.config.draft_groups
            group = group_of(state_of_group, chunk_tokens, is_draft=is_draft)
            worker.mirror.set_lane(number, group.lane, group.kind is GroupKind.FULL)
            if not worker.unseen_groups >> number & 1:
                groups.append(group)
        stores = self.models[worker.model].stores
        disk = stores.get(self._store_name(worker, DISK))
        storage = stores.get(self._store_name(worker, STORAGE))
        worker.mirror.set_stores(
            disk.native if disk is not None else None,
            storage.native if storage is not None else None,
            [worker.stores[name].native for name in sorted(worker.stores)],
        )
        worker.judge_block_sizes()
        store_lanes = [store.lane for store in worker.stores.values()]
        self._index.roster.set(
            worker.number,
            groups,
            store_lanes if groups else [],
            chunk_blocks=worker.config.offload_chunk_blocks,
            recomputes_last_block=worker.config.recomputes_last_block,
            drops_matched_block=worker.config.drops_matched_block,
        )

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
        for worker in [worker for worker in self.workers() if worker.pod == pod]:
            self.remove(worker)

    def remove(self, worker: WorkerState) -> None:
        """Forget a worker: its lanes are emptied; stores keep what it wrote."""
        del self.models[worker.model].workers[worker.pod, worker.rank]
        worker.removed = True
        worker.feed.workers.pop(worker.number, None)
        if worker.mirror is not None:
            self.retired.update(worker.mirror.counts())
        self._index.roster.set(worker.number, [], [])
        self.names.pop(worker.number, None)
        self.truths.pop(worker.number, None)
        for group in worker.groups.values():
            self._give_back(group.lane)

    # From checkpoints.

    @property
    def algorithm(self) -> Algorithm:
        return self._config.algorithm

    def keyspace_for(self, model: str, block_size: int) -> Keyspace:
        """The model's keyspace. Raises CheckpointError when its blocks are of another size."""
        state = self._model(model)
        if state.keyspace is None and 1 <= block_size <= _BLOCK_SIZE_MAX:
            return self._set_block_size(state, block_size)
        if state.keyspace is None or state.block_size != block_size:
            raise CheckpointError(
                f"block size of {model!r}: expected {state.block_size or '1 to 4096'}, got {block_size}"
            )
        return state.keyspace

    def restore(
        self, worker: WorkerState, groups: Mapping[int, GroupState], stores: Iterable[str], parts: list[bytes]
    ) -> None:
        """Fill a new worker as it was. Raises CheckpointError when `parts` are not of a mirror."""
        state = self.models[worker.model]
        assert worker.mirror is not None
        for number, group in groups.items():
            worker.groups[number] = group._replace(lane=self._lane((worker.pod, worker.rank, number)))
        for name in stores:
            worker.stores[name] = self._store(state, name)
        self._tell(worker)
        worker.mirror.restore(parts)
        self._index.apply(worker.mirror.content(self._config.shards))

    def load_store(self, model: str, name: str, parts: list[bytes]) -> None:
        """Fill an empty store as it was. Raises CheckpointError when `parts` are not of a store."""
        state = self._model(model)
        store = self._store(state, name)
        store.native.load(b"".join(parts), state.block_size)
        tier = DISK if name.startswith(f"{model}/disk@") else STORAGE
        self._index.apply(store.native.content(self._config.shards, tier))

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
            if worker.mirror is not None:
                for group, blocks in worker.mirror.residency().items():
                    lanes[worker.pod, worker.rank, group] = blocks
        for name, store in state.stores.items():
            tier = DISK if name.startswith(f"{model}/disk@") else STORAGE
            lanes[name] = dict.fromkeys(store.native.keys(), tier)
        return lanes


def group_of(group: GroupState, chunk_tokens: int, *, is_draft: bool) -> Group:
    """How a group's blocks are reused, for matching."""
    kind = GroupKind.of(group.kind)
    window = chunk_tokens if kind is GroupKind.CHUNKED_LOCAL else group.window_tokens
    return Group(group.lane, kind, window, group.block_size_tokens, is_draft)
