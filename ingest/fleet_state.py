"""What an atlas keeps per model, worker and store: who has which lane, mirror and number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from kvatlas.index._native import Keyspace
from kvatlas.index.errors import CheckpointError, InputError
from kvatlas.index.groups import Group, GroupKind
from kvatlas.index.keys import BLOCK_SIZE_MAX, Algorithm, keyspace
from kvatlas.index.scores import Worker
from kvatlas.ingest._native import Decoder, Mirror, Store
from kvatlas.ingest.config import AtlasConfig, PodConfig
from kvatlas.ingest.feed import Feed
from kvatlas.ingest.fleet_stores import DISK, STORAGE, FleetStores, ModelState
from kvatlas.ingest.numbering import Numbers
from kvatlas.ingest.outlet import Outlet
from kvatlas.ingest.stream.truth import Truth
from kvatlas.ingest.worker_state import GroupState, WorkerSetup, WorkerState


class FleetState:
    """Models, workers and lanes. Changed by one writer at a time; `names` and `truths` are read any time."""

    def __init__(self, config: AtlasConfig, hash_seed: str, outlet: Outlet, numbers: Numbers) -> None:
        self._config = config
        self._hash_seed = hash_seed
        self._outlet = outlet
        self._numbers = numbers
        self._setup: WorkerSetup | None = None
        self.pods = dict(config.pods)
        """What is known of pods beforehand."""
        self.models: dict[str, ModelState] = {}
        self.names: dict[int, Worker] = {}
        """Workers by number."""
        self.truths: dict[int, Truth] = {}
        """The same workers' truths."""
        self._stores = FleetStores(self.models, outlet, numbers, config)
        self.lane_names = self._stores.lane_names
        self.retired: Counter[str] = Counter()
        """Counts of the mirrors that are gone."""
        self.block_size_changes = 0
        self.version = 0
        """Rises when workers, what they consist of, their doubts or block sizes change."""
        self.followers: list[Callable[[], object]] = []
        """Called at each rise of `version`."""
        self.refused: set[WorkerState] = set()
        """Workers that were refused a lane."""
        self._workers_end = 0

    def note_change(self) -> None:
        self.version += 1
        if self._outlet.changed is not None:
            self._outlet.changed.set()
        for follower in self.followers:
            follower()

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
        config = self.pods.get(pod) or PodConfig()
        stores = self._stores.of_config(state, config)
        number = self._numbers.worker()
        worker = WorkerState(pod, rank, model, number, config, feed, self._setup)
        worker.learns_block_size = state.block_size_configured is None and worker.announces is None
        worker.stores = stores
        self._workers_end = max(self._workers_end, number + 1)
        state.workers[pod, rank] = worker
        self.names[worker.number] = (pod, rank)
        self.truths[worker.number] = worker.truth
        self.note_change()
        if worker.announces is not None:  # it makes no block keys: it need not wait for their size
            self._give_mirror(worker, state, self._keyspace(state, 1))
        elif state.keyspace is not None:
            self._give_mirror(worker, state, state.keyspace)
        return worker

    def configure(self, worker: WorkerState) -> None:
        """Bring a worker up to what is known of its pod; without lanes for that it stays as it is."""
        config, model = self.pods.get(worker.pod) or PodConfig(), self.models[worker.model]
        if config == worker.config:
            return
        try:
            named = self._stores.of_config(model, config)
        except InputError:
            self.refused.add(worker)
            return
        former = worker.config.stores
        worker.stores = {name: s for name, s in worker.stores.items() if name not in former} | named
        worker.config = worker.claims.config = config
        if worker.mirror is not None:
            self._tell(worker)
        worker.observe()
        self.note_change()

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
        state = self.models[speaker.model]
        if 0 < dense_block_size <= BLOCK_SIZE_MAX:
            self._lower_block_size(state, dense_block_size, speaker)

    def tell_block_size(self, model: str, size: int) -> None:
        """Somebody else has heard this block size. Raises InputError when it is none."""
        if not 1 <= size <= BLOCK_SIZE_MAX:
            raise InputError(f"block size of {model!r}: expected 1 to {BLOCK_SIZE_MAX}, got {size}")
        state = self._model(model)
        if state.block_size_configured is None:
            self._lower_block_size(state, size, None)

    def _lower_block_size(self, state: ModelState, size: int, speaker: WorkerState | None) -> None:
        if state.block_size and size >= state.block_size:
            return
        space = self._set_block_size(state, size)
        for worker in [worker for worker in state.workers.values() if worker.announces is None]:
            if worker.mirror is None:
                self._give_mirror(worker, state, space)
                continue
            is_first = worker is speaker and worker.batches == 1 and worker.mirror.sizes()["nodes"] == 0
            self.block_size_changes += not is_first
            worker.empty(space, is_first=is_first)
        self._stores.forget_meanings(state)

    def _set_block_size(self, state: ModelState, size: int) -> Keyspace:
        space = state.keyspace = self._keyspace(state, size)
        state.block_size = size
        self.note_change()
        return space

    def _keyspace(self, state: ModelState, size: int) -> Keyspace:
        return keyspace(state.name, size, self._config.algorithm, self._hash_seed)

    def _give_mirror(self, worker: WorkerState, state: ModelState, space: Keyspace) -> None:
        config = self._config
        shards = self._outlet.n_shards
        mirror = Mirror(space, shards, config.ghosts_max, config.orphans_max, config.orphan_bytes_max)
        self._outlet.join(mirror)
        if worker.announces is not None:
            mirror.set_announcer()
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
        try:
            self._prepare(worker, batch)
        except InputError:
            self.refused.add(worker)
            raise

    def _prepare(self, worker: WorkerState, batch: Decoder) -> None:
        state = self.models[worker.model]
        if worker.announces is None:
            self._see_groups(worker, batch)
        for tier in (DISK, STORAGE):
            name = self._stores.of_tier(worker, tier)
            named = batch.store_tiers if worker.announces is None else STORAGE
            if named & tier and name is not None:
                worker.stores[name] = self._stores.store(state, name)
        self._tell(worker)

    def early_store(self, worker: WorkerState, is_told: bool) -> Store | None:
        """The store of a worker whose block size is not known yet, if files of it are told. Raises InputError
        when no lane is left for it."""
        name = self._stores.of_tier(worker, STORAGE) if is_told else None
        if name is None:
            return None
        try:
            store = worker.stores[name] = self._stores.store(self.models[worker.model], name)
        except InputError:
            self.refused.add(worker)
            raise
        return store.native

    def _see_groups(self, worker: WorkerState, batch: Decoder) -> None:
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

    def _see_group(self, worker: WorkerState, number: int) -> GroupState:
        """The worker's group of this number; one from before a restart is as new but for its lane."""
        group = worker.groups.get(number)
        if group is None:
            group = GroupState(self._stores.lane((worker.pod, worker.rank, number)))
        elif worker.unseen_groups >> number & 1:
            group = GroupState(group.lane)
        worker.unseen_groups &= ~(1 << number)
        worker.groups[number] = group
        return group

    def _tell(self, worker: WorkerState) -> None:
        """Tell mirror and outlet what the worker consists of now."""
        assert worker.mirror is not None
        chunk_tokens = self._config.attention_chunk_tokens(worker.model)
        groups, full_groups = [], 0
        for number, state_of_group in sorted(worker.groups.items()):
            is_draft = number in worker.config.draft_groups
            group = group_of(state_of_group, chunk_tokens, is_draft=is_draft)
            worker.mirror.set_lane(number, group.lane, group.kind is GroupKind.FULL)
            if not worker.unseen_groups >> number & 1:
                groups.append(group)
                full_groups |= (group.kind is GroupKind.FULL and not is_draft) << number
        stores = self.models[worker.model].stores
        disk, storage = (stores.get(self._stores.of_tier(worker, tier) or "") for tier in (DISK, STORAGE))
        worker.mirror.set_stores(
            disk.native if disk is not None else None,
            storage.native if storage is not None else None,
            [worker.stores[name].native for name in sorted(worker.stores)],
            self._stores.of_tier(worker, STORAGE) is not None,
        )
        worker.mirror.set_chunk_blocks(worker.config.offload_chunk_blocks)
        self._outlet.apply(worker.mirror.take())  # files may have waited for what it knows
        self._stores.need_groups(self.models[worker.model], worker, full_groups)
        worker.judge_block_sizes()
        worker.tell(groups)

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
        self.refused.discard(worker)
        self._outlet.tell(worker.number, [], [], worker.config)
        self._stores.judge_groups(self.models[worker.model], worker)
        self.names.pop(worker.number, None)
        self.truths.pop(worker.number, None)
        for group in worker.groups.values():
            self._stores.give_back(group.lane)
        self._numbers.give_back_worker(worker.number)
        self.note_change()

    # From checkpoints.

    @property
    def algorithm(self) -> Algorithm:
        return self._config.algorithm

    def keyspace_for(self, model: str, block_size: int) -> Keyspace:
        """The model's keyspace. Raises CheckpointError when its blocks are of another size."""
        state = self._model(model)
        if state.keyspace is None and 1 <= block_size <= BLOCK_SIZE_MAX:
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
            lane = self._stores.lane((worker.pod, worker.rank, number))
            worker.groups[number] = group._replace(lane=lane)
        for name in stores:
            if self._stores.is_kept(worker.model, name, self.pods):
                worker.stores[name] = self._stores.store(state, name)
        self._tell(worker)
        worker.mirror.restore(parts)
        self._outlet.apply(worker.mirror.take())
        self._outlet.apply(worker.mirror.content(self._outlet.n_shards))

    def load_store(self, model: str, name: str, parts: list[bytes]) -> None:
        """Fill an empty store as it was. Raises CheckpointError when `parts` are not of a store."""
        if not self._stores.is_kept(model, name, self.pods):
            raise CheckpointError(f"store {name!r}: expected one that pods name, got one that nobody names")
        state = self._model(model)
        store = self._stores.store(state, name)
        store.native.load(b"".join(parts), state.block_size)
        self._outlet.apply(store.native.content(self._outlet.n_shards, state.tier_of(name)))

    def allowed(self, model: ModelState, pods: Iterable[str] | None) -> bytearray:
        """One byte a worker number: 1 for the model's workers, of these pods where given."""
        mask = bytearray(self._workers_end)
        wanted = None if pods is None else {pods} if isinstance(pods, str) else set(pods)
        for worker in list(model.workers.values()):
            is_wanted = worker.announces is None and (wanted is None or worker.pod in wanted)
            if is_wanted and worker.number < len(mask):
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
            lanes[name] = dict.fromkeys(store.native.keys(), state.tier_of(name))
        return lanes


def group_of(group: GroupState, chunk_tokens: int, *, is_draft: bool) -> Group:
    """How a group's blocks are reused, for matching."""
    kind = GroupKind.of(group.kind)
    window = chunk_tokens if kind is GroupKind.CHUNKED_LOCAL else group.window_tokens
    return Group(group.lane, kind, window, group.block_size_tokens, is_draft)
