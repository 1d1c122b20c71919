"""The atlas in one process: events in, scores out. Ray's actors hold parts of it, libraries all.

Write path: `ingest` -> Decoder.decode -> Mirror.apply -> Table.apply.
Read path:  `score` -> Keyspace.keys -> Index.match -> Scores.
"""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from kvatlas.index.errors import InputError
from kvatlas.index.keys import Feature, TokenIds
from kvatlas.index.scores import DEFAULT_TIER_WEIGHTS, TIERS, Explanation, Scores
from kvatlas.index.shards import ShardedIndex
from kvatlas.ingest._native import Decoder
from kvatlas.ingest.atlas_statistics import AtlasStatistics
from kvatlas.ingest.config import AtlasConfig
from kvatlas.ingest.explain import explain
from kvatlas.ingest.fleet_state import FleetState, ModelState, WorkerState
from kvatlas.ingest.topic import parse_topic

_TOPICS_MAX = 1 << 16


class Atlas:
    """Where the KV-cache blocks of a fleet live, kept from its servers' events.

    Any thread may call any method. Writers (`ingest`, `remove_pod`) take turns; readers (`score`,
    `explain`, `lookup`) never wait for them.
    """

    def __init__(self, config: AtlasConfig | None = None) -> None:
        self.config = config or AtlasConfig()
        seed = self.config.hash_seed
        self._index = ShardedIndex(self.config.shards, table_bytes_max=self.config.table_bytes_max)
        self._fleet = FleetState(self.config, secrets.token_hex(16) if seed is None else seed, self._index)
        weights = {**DEFAULT_TIER_WEIGHTS, **self.config.tier_weights}
        self._weights = np.array([weights[tier] for tier in TIERS], np.float64)
        self._writing = threading.RLock()
        self._decoder = Decoder()
        self._names: dict[bytes, tuple[str, str]] = {}
        self._counts: Counter[str] = Counter()

    # Write path.

    def ingest(self, topic: bytes, seq: int, payload: bytes) -> None:
        """Apply one message of a model server: its three frames, `seq` already an integer.

        Bad events inside are counted and skipped. Raises DecodeError when the payload is no batch
        at all, InputError when nobody says which pod and model it is from; both are counted as
        `refused_payloads` and change nothing else.
        """
        with self._writing:
            try:
                if not isinstance(seq, int):
                    raise InputError(f"seq: expected an int, got {type(seq).__name__}")
                pod, model = self._names.get(topic) or self._name(topic)
                self._decoder.decode(payload)
                worker = self._admit(model, pod)
                self._count_batch()
                if worker is None:
                    self._counts["no_block_size"] += self._decoder.n_events
                elif worker.admits(seq, payload):
                    self._apply(worker)
            except (InputError, TypeError):
                self._counts["refused_payloads"] += 1
                raise

    def _apply(self, worker: WorkerState) -> None:
        worker.last_event_ts = self._decoder.ts
        if not worker.mirror.apply(self._decoder):
            try:
                self._fleet.prepare(worker, self._decoder)
            except InputError:  # no lane left: what the batch says is missing from now on
                worker.gaps += 1
                worker.missed_batches += 1
                raise
            worker.mirror.apply(self._decoder, told=True)

    def _name(self, topic: bytes) -> tuple[str, str]:
        """Pod and model of a topic: its own words, else the pod's configuration, else the defaults."""
        named = parse_topic(topic)
        pod = named.pod or self.config.default_pod
        configured = self.config.pods.get(pod) if pod is not None else None
        model = named.model or (configured and configured.model) or self.config.default_model
        if pod is None or model is None:
            missing = "pod" if pod is None else "model"
            raise InputError(
                f"topic {topic!r}: expected kv@<pod>@<model>, or default_{missing} in the configuration"
            )
        if len(self._names) >= _TOPICS_MAX:
            self._names.clear()
        self._names[topic] = pod, model
        return pod, model

    def _admit(self, model: str, pod: str) -> WorkerState | None:
        """The worker that the decoded batch is from; None while the block size is unknown."""
        state = self._fleet.models.get(model)
        rank = max(self._decoder.rank, 0)
        if state is not None and state.block_size_configured is not None:
            known = state.workers.get((pod, rank))
            if known is not None:
                return known
        return self._admit_beyond(model, pod, rank)

    def _admit_beyond(self, model: str, pod: str, rank: int) -> WorkerState | None:
        """The same where the worker, the model or its block size may be new."""
        fleet, size = self._fleet, self._decoder.dense_block_size
        state = fleet.models.get(model)
        if state is None:
            if size == 0 and model not in self.config.models:
                return None  # nothing is kept of a model before it has a block
            state = fleet.model(model)
        fleet.require_room(state, pod, rank)
        if state.block_size_configured is None:
            fleet.learn_block_size(state, size)
        if state.keyspace is None:
            return None
        return fleet.worker(state, pod, rank)

    def _count_batch(self) -> None:
        decoder, counts = self._decoder, self._counts
        counts["batches"] += 1
        if not decoder.clean:
            counts["bad_event"] += decoder.bad_events
            counts["unknown_events"] += decoder.unknown_events
            counts["broken_payload"] += decoder.broken

    def remove_pod(self, pod: str) -> None:
        """Forget a pod: its lanes are emptied; stores keep what it wrote. Unknown pods are ignored."""
        with self._writing:
            self._fleet.remove_pod(pod)

    # Read path.

    def score(
        self,
        token_ids: TokenIds,
        *,
        model: str,
        lora: str | None = None,
        cache_salt: str | None = None,
        features: Iterable[Feature] | None = None,
        pods: Iterable[str] | None = None,
    ) -> Scores:
        """How much of a prompt each pod holds already. Arguments as `kvatlas.block_keys`.

        `pods`: only these. A model that no server has announced scores nothing.
        """
        fleet = self._fleet
        state = fleet.models.get(model)
        keys = _keys(state, token_ids, lora, cache_salt, features)
        # Keys of two models never meet, but fnv64a_cbor puts a LoRA's name in the model's place.
        chosen = pods is not None or self.config.algorithm != "fold64"
        allowed = fleet.allowed(state, pods) if chosen and state is not None else None
        matches = self._index.match(keys, allowed)
        block_size = state.block_size if state is not None else 0
        return Scores(
            matches, fleet.names, self._weights, prompt_blocks=len(keys), block_size_tokens=block_size
        )

    def explain(
        self,
        token_ids: TokenIds,
        *,
        model: str,
        lora: str | None = None,
        cache_salt: str | None = None,
        features: Iterable[Feature] | None = None,
        pods: Iterable[str] | None = None,
    ) -> Explanation:
        """For each worker of the model: what it holds of the prompt, and why its match ends there.

        For people and tools: it costs a Python object a block. Arguments as `score`.
        """
        state = self._fleet.models.get(model)
        keys = _keys(state, token_ids, lora, cache_salt, features)
        found = self.lookup(keys)
        wanted = None if pods is None else set(pods)
        return explain(model, state, token_ids, found, self._weights, wanted)

    def lookup(self, keys: npt.NDArray[np.uint64]) -> list[dict[tuple[str, int, int] | str, int]]:
        """For each block key: tier bits by (pod, rank, group), or by name for a store."""
        lanes = self._fleet.lane_names
        found = []
        for held in self._index.lookup(keys):
            named = ((lanes.get(lane), mask) for lane, mask in held)
            found.append({name: mask for name, mask in named if name is not None})
        return found

    # What it knows of itself.

    def residency(self, model: str) -> dict[tuple[str, int, int] | str, dict[int, int]]:
        """What the mirrors of a model hold: tier bits by block key, by (pod, rank, group) or store.

        The mirrors are the source of truth; the tables are made from them.
        """
        with self._writing:
            return self._fleet.residency(model)

    def statistics(self) -> AtlasStatistics:
        """Counts, sizes and bounds of everything, at one moment."""
        with self._writing:
            return self._fleet.statistics(self._counts)

    def close(self) -> None:
        """Release the tables; later calls raise TableFileError."""
        self._index.close()


def _keys(
    state: ModelState | None,
    token_ids: TokenIds,
    lora: str | None,
    cache_salt: str | None,
    features: Iterable[Feature] | None,
) -> npt.NDArray[np.uint64]:
    if state is None or state.keyspace is None:
        return np.empty(0, np.uint64)
    return state.keyspace.keys(token_ids, lora, cache_salt, features)
