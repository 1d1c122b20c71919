"""The whole atlas in plain Python: the model that `kvatlas.Atlas` is held to.

Mirrors say what each worker holds (`tests.models.mirror`); here are the stores, which outlive
their workers, and the questions: residency, lookup, match and score. Every answer is worked out
from scratch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kvatlas.ingest.wire.events import AllBlocksCleared, BlockRemoved, BlockStored, EventBatch
from tests.models.block_keys import Feature, Keyspace, block_keys, keyspace
from tests.models.meaning import Meaning
from tests.models.mirror import CPU, DISK, GPU, STORAGE, UNKNOWN, Limits, Mirror, tier_of
from tests.models.stores import Store

WEIGHTS = {GPU: 1.0, CPU: 0.8, DISK: 0.5, STORAGE: 0.4, UNKNOWN: 0.0}

Worker = tuple[str, int]
"""Pod and data-parallel rank."""
Lane = tuple[str, int, int] | str
"""Pod, rank and group; or the name of a store."""


@dataclass(frozen=True)
class NaiveConfig:
    """What the model must be told; the same things as in `AtlasConfig`."""

    block_sizes: Mapping[str, int] = field(default_factory=dict)
    """Of a model without one, the smallest dense block on a device that any batch has shown."""
    algorithm: str = "fold64"
    hash_seed: str = "seed"
    lora_names: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    stores: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)


class NaiveAtlas:
    """Mirrors by worker and stores by name, and what can be asked of them."""

    def __init__(self, config: NaiveConfig) -> None:
        self.config = config
        self.counts: Counter[str] = Counter()
        self.mirrors: dict[str, dict[Worker, Mirror]] = {}
        self.stores: dict[str, dict[str, Store]] = {}
        self.attached: dict[str, dict[Worker, set[str]]] = {}
        self.applied: dict[tuple[str, Worker], dict[int, bytes]] = {}
        """Payloads by sequence number, of each worker's last incarnation."""
        self.early: dict[tuple[str, Worker], set[str]] = {}
        """Stores that workers told of before the block size was known."""
        self.batches: Counter[tuple[str, Worker]] = Counter()
        """Applied, of all incarnations."""
        self.left_out: set[tuple[str, Worker]] = set()
        """Workers that said something before the block size was known."""
        self.block_sizes = dict(config.block_sizes)
        self._residency: dict[str, dict[Lane, dict[int, int]]] = {}

    # What is told.

    def ingest(self, pod: str, model: str, seq: int, payload: bytes, batch: EventBatch) -> None:
        """One message; `batch` is what its payload says."""
        self._residency = {}
        worker = (pod, batch.data_parallel_rank or 0)
        applied = self.applied.setdefault((model, worker), {})
        if applied.get(seq) == payload:
            return
        mirrors = self.mirrors.get(model, {})
        if applied and seq <= max(applied):
            applied.clear()
            if worker in mirrors:
                mirrors[worker].restarted(mirrors[worker].space)
                mirrors[worker].kinds.clear()  # it may have other groups now
        if applied and seq > max(applied) + 1 and worker in mirrors:
            mirrors[worker].doubted()
        joins_late = not applied and seq > 0
        applied[seq] = payload
        self.batches[model, worker] += 1
        if joins_late or len(applied) == 1:
            self.left_out.discard((model, worker))
        if model not in self.config.block_sizes:
            self._learn_block_size(model, worker, batch)
        if model not in self.block_sizes:
            others = [event for event in batch.events if not self._told_early(model, worker, event)]
            self.counts["no_block_size"] += len(others)
            if self._count_unread(batch) or joins_late or any(map(_names_a_group, others)):
                self.left_out.add((model, worker))
            return
        mirror = self._mirror(model, worker)
        if joins_late:
            mirror.doubted()
        mirror.begin_batch(batch.events)
        for event in batch.events:
            if isinstance(event, BlockStored) and tier_of(event.medium, event.locality) == GPU:
                mirror.name_group(event)
        self._attach(model, worker, batch.events)
        mirror.told_full = set(mirror.full_groups()) or mirror.told_full
        self._judge_groups(model)
        for event in batch.events:
            if isinstance(event, AllBlocksCleared):
                mirror.cleared()
            elif isinstance(event, BlockRemoved):
                self._removed(model, worker, event)
            elif event.block_hashes:
                self._stored(model, worker, event)
            self._teach(model, worker)
        if self._count_unread(batch):
            mirror.doubted()

    def _count_unread(self, batch: EventBatch) -> int:
        """What of the batch could not be read: a removal may be among it."""
        self.counts["unknown_events"] += batch.unknown_events
        for error in batch.errors:
            self.counts[error.reason] += 1
        return batch.unknown_events + len(batch.errors)

    def remove_pod(self, pod: str) -> None:
        self._residency = {}
        for name in [name for name in self.applied if name[1][0] == pod]:
            del self.applied[name], self.batches[name]
            self.early.pop(name, None)
            self.left_out.discard(name)
        for model, mirrors in self.mirrors.items():
            for worker in [worker for worker in mirrors if worker[0] == pod]:
                del mirrors[worker]
                del self.attached[model][worker]
            self._judge_groups(model)

    # What is asked.

    def residency(self, model: str) -> dict[Lane, dict[int, int]]:
        """Tier masks by block key, for every lane (pod, rank, group) and store that holds any."""
        if model in self._residency:
            return self._residency[model]
        lanes: dict[Lane, dict[int, int]] = {}
        for worker, mirror in self.mirrors.get(model, {}).items():
            for group in {group for _, _, group in mirror.copies}:
                lanes[worker[0], worker[1], group] = mirror.residency(group)
        for name, store in self.stores.get(model, {}).items():
            lanes[name] = store.residency()
        self._residency[model] = {lane: masks for lane, masks in lanes.items() if masks}
        return self._residency[model]

    def match(
        self, model: str, keys: Sequence[int], pods: Iterable[str] | None = None
    ) -> dict[Worker, list[int]]:
        """For every worker that holds the first block: its tier masks over the leading run."""
        lanes = self.residency(model)
        wanted = None if pods is None else set(pods)
        matches: dict[Worker, list[int]] = {}
        for worker, mirror in self.mirrors.get(model, {}).items():
            if wanted is not None and worker[0] not in wanted:
                continue
            groups = [lanes.get((worker[0], worker[1], group), {}) for group in mirror.full_groups()]
            shared = [lanes.get(name, {}) for name in self.attached[model][worker]]
            run = self._leading_run(keys, groups, shared)
            if run:
                matches[worker] = run
        return matches

    def score_keys(
        self, model: str, keys: Sequence[int], pods: Iterable[str] | None = None
    ) -> dict[str, float]:
        """Each pod's score: that of its best rank."""
        scores: dict[str, float] = {}
        for (pod, _), run in self.match(model, keys, pods).items():
            total = sum(best_weight(mask) for mask in run)
            scores[pod] = max(total, scores.get(pod, 0.0))
        return scores

    def keys(
        self,
        token_ids: Sequence[int],
        *,
        model: str,
        lora: str | None = None,
        cache_salt: str | None = None,
        features: Sequence[Feature] | None = None,
    ) -> list[int]:
        return block_keys(
            token_ids,
            model=model,
            block_size=self.block_sizes[model],
            algorithm=self.config.algorithm,
            hash_seed=self.config.hash_seed,
            lora=lora,
            cache_salt=cache_salt,
            features=features,
        )

    # How.

    @staticmethod
    def _leading_run(
        keys: Sequence[int],
        groups: Sequence[Mapping[int, int]],
        shared: Sequence[Mapping[int, int]],
    ) -> list[int]:
        """Tier masks while every group's lane or a store holds the block."""
        run: list[int] = []
        for key in keys:
            stored = union(masks.get(key, 0) for masks in shared)
            by_group = [masks.get(key, 0) | stored for masks in groups]
            if not by_group or not all(by_group):
                break
            run.append(min(by_group, key=best_weight))
        return run

    def _learn_block_size(self, model: str, speaker: Worker, batch: EventBatch) -> None:
        """A smaller dense block than any before empties the model: no key of it holds any more."""
        dense = [
            event.block_size
            for event in batch.events
            if isinstance(event, BlockStored)
            and tier_of(event.medium, event.locality) == GPU
            and len(event.token_ids) == len(event.block_hashes) * event.block_size > 0
        ]
        known = self.block_sizes.get(model)
        if not dense or (known is not None and known <= min(dense)):
            return
        self.block_sizes[model] = min(dense)
        if known is None:
            for name in self.applied:
                if name[0] == model:
                    self._mirror(*name)
        for worker, mirror in self.mirrors.get(model, {}).items() if known is not None else ():
            mirror.restarted(self._keyspace(model))
            if worker != speaker or self.batches[model, worker] > 1:
                self.counts["block_size_changed"] += 1
                mirror.doubted()
        for store in self.stores.get(model, {}).values():
            store.forget_meanings()

    def _keyspace(self, model: str) -> Keyspace:
        config = self.config
        return keyspace(config.algorithm, config.hash_seed, model, self.block_sizes[model])

    def _mirror(self, model: str, worker: Worker) -> Mirror:
        mirrors = self.mirrors.setdefault(model, {})
        if worker not in mirrors:
            attached = set(self.config.stores.get(worker[0], ())) | self.early.get((model, worker), set())
            self.attached.setdefault(model, {})[worker] = attached
            for name in attached:
                self.stores.setdefault(model, {}).setdefault(name, Store(STORAGE, self.config.limits.stored))

            def stored_meaning(key: int) -> Meaning | None:
                for name in sorted(attached):
                    store = self.stores.get(model, {}).get(name)
                    if store is not None and key in store.known:
                        return store.known[key]
                return None

            config, space = self.config, self._keyspace(model)
            lora_names = config.lora_names.get(model, {})
            mirrors[worker] = Mirror(space, lora_names, self.counts, stored_meaning, config.limits)
            if (model, worker) in self.left_out:
                mirrors[worker].doubted()
        return mirrors[worker]

    def _store_name(self, model: str, pod: str, tier: int) -> str:
        configured = self.config.stores.get(pod, ())
        if tier == DISK:
            return f"{model}/disk@{pod}"
        return configured[0] if configured else f"{model}/storage"

    def _stored(self, model: str, worker: Worker, event: BlockStored) -> None:
        mirror = self.mirrors[model][worker]
        mirror.name_group(event)
        tier = tier_of(event.medium, event.locality)
        if tier == UNKNOWN:
            self.counts["unknown_medium"] += 1
        if tier not in (DISK, STORAGE):
            mirror.stored(event, tier)
            return
        store = self.stores[model][self._store_name(model, worker[0], tier)]
        names = event.block_hashes
        n_tokens = len(names) * event.block_size
        is_chunk = len(names) > 1 and 0 < n_tokens == len(event.token_ids)
        meanings = {name: mirror.placed(name) for name in names}
        for name, meaning in meanings.items():
            known = meaning or mirror.stored_meaning(name)
            store.learn([(name, known)] if known is not None else [])
        for i, name in enumerate(names):
            meaning = meanings[name]
            if meaning is not None and not meaning.whole and meaning.unindexed is None:
                self.counts["store_parts"] += 1
                mirror.lost["lost_stored"] += 1
            elif not is_chunk or i == len(names) - 1:
                blocks = names if is_chunk else (name,)
                held = store.hold(blocks, event.group_idx)
                if held in ("waits", "no_room"):
                    self.counts["store_waiting" if held == "waits" else "store_full"] += len(blocks)
                    mirror.lost["lost_stored"] += len(blocks) * (held == "no_room")

    def _told_early(self, model: str, worker: Worker, event: object) -> bool:
        """Files in shared storage are known, and wait, before any block size is."""
        if not isinstance(event, BlockStored | BlockRemoved):
            return False
        if tier_of(event.medium, event.locality) != STORAGE:
            return False
        name = self._store_name(model, worker[0], STORAGE)
        store = self.stores.setdefault(model, {}).setdefault(name, Store(STORAGE, self.config.limits.stored))
        self.early.setdefault((model, worker), set()).add(name)
        if isinstance(event, BlockRemoved):
            unknown = store.release(event.block_hashes, event.group_idx)
            self.counts["removed_unknown"] += len(unknown)
            return True
        names = event.block_hashes
        is_chunk = len(names) > 1 and 0 < len(names) * event.block_size == len(event.token_ids)
        for blocks in [names] if is_chunk else [(name,) for name in names]:
            if store.hold(blocks, event.group_idx) == "waits":
                self.counts["store_waiting"] += len(blocks)
        return True

    def _attach(self, model: str, worker: Worker, events: Iterable[object]) -> None:
        """The stores that a batch names count for its worker; they learn what that knows already."""
        attached, mirror = self.attached[model][worker], self.mirrors[model][worker]
        self._teach(model, worker)
        for event in events:
            if not isinstance(event, BlockStored) or not event.block_hashes:
                continue
            tier = tier_of(event.medium, event.locality)
            name = self._store_name(model, worker[0], tier)
            if tier in (DISK, STORAGE) and name not in attached:
                store = self.stores.setdefault(model, {}).setdefault(
                    name, Store(tier, self.config.limits.stored)
                )
                attached.add(name)
                store.learn((key, meaning) for key in mirror.meanings if (meaning := mirror.placed(key)))

    def _teach(self, model: str, worker: Worker) -> None:
        learned, self.mirrors[model][worker].learned = self.mirrors[model][worker].learned, {}
        for name in self.attached[model][worker]:
            self.stores[model][name].learn(learned.items())

    def _judge_groups(self, model: str) -> None:
        """A file counts once it is there for all full groups of the workers attached."""
        for name, store in self.stores.get(model, {}).items():
            attached = (w for w, names in self.attached.get(model, {}).items() if name in names)
            store.need(set().union(*(self.mirrors[model][w].told_full for w in attached)))

    def _removed(self, model: str, worker: Worker, event: BlockRemoved) -> None:
        mirror = self.mirrors[model][worker]
        tier = tier_of(event.medium, event.locality)
        if tier not in (DISK, STORAGE):
            mirror.removed(event, tier)
            return
        name = self._store_name(model, worker[0], tier)
        store = self.stores.get(model, {}).get(name, Store(tier, self.config.limits.stored))
        for key in store.release(event.block_hashes, event.group_idx):
            self.counts["removed_not_held" if key in mirror.meanings else "removed_unknown"] += 1


def union(masks: Iterable[int]) -> int:
    total = 0
    for mask in masks:
        total |= mask
    return total


def best_weight(mask: int) -> float:
    return max((weight for tier, weight in WEIGHTS.items() if mask & tier), default=0.0)


def _names_a_group(event: object) -> bool:
    if not isinstance(event, BlockStored):
        return False
    return bool(event.block_hashes) or tier_of(event.medium, event.locality) == GPU
