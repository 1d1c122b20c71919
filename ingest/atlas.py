"""The atlas in one process: events in, scores out. Ray's actors hold parts of it, libraries all.

Write path: `ingest` -> Decoder.decode -> Mirror.apply -> Table.apply.
Read path:  `score` -> Keyspace.keys -> Index.match -> Scores.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kvatlas.index.keys import Feature, TokenIds
from kvatlas.index.scores import DEFAULT_TIER_WEIGHTS, TIERS, Explanation, Scores
from kvatlas.index.shards import ShardedIndex, Strategy
from kvatlas.ingest.atlas_report import report
from kvatlas.ingest.atlas_statistics import AtlasStatistics
from kvatlas.ingest.checkpoints import CheckpointReport, Checkpoints
from kvatlas.ingest.config import AtlasConfig
from kvatlas.ingest.explain import count_tokens, explain
from kvatlas.ingest.feed import Feed, FeedNames
from kvatlas.ingest.fleet_state import FleetState, ModelState
from kvatlas.ingest.intake import Intake
from kvatlas.ingest.stream.extras_claims import ExtrasClaim, ExtrasClaims
from kvatlas.ingest.stream.truth import State, Truth
from kvatlas.ingest.worker_state import WorkerSetup


class Atlas:
    """Where the KV-cache blocks of a fleet live, kept from its servers' events.

    Any thread may call any method. Writers (`ingest`, feeds, `remove_pod`) take turns; readers
    (`score`, `explain`, `lookup`) never wait for them. `clock_s` is for tests.
    """

    def __init__(
        self, config: AtlasConfig | None = None, *, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self.config = config or AtlasConfig()
        seed = self.config.hash_seed
        self._index = ShardedIndex(self.config.shards, table_bytes_max=self.config.table_bytes_max)
        self._fleet = FleetState(self.config, secrets.token_hex(16) if seed is None else seed, self._index)
        self._intake = Intake(self.config, self._fleet, clock_s)
        self._transitions: Counter[str] = Counter()
        self._fleet.begin(
            WorkerSetup(
                index=self._index,
                apply=self._intake.apply,
                clock_s=clock_s,
                limits=self.config.stream,
                agreement=self.config.agreement,
                changed=self._changed,
            )
        )
        weights = {**DEFAULT_TIER_WEIGHTS, **self.config.tier_weights}
        self._weights = np.array([weights[tier] for tier in TIERS], np.float64)
        self._callers = self.feed()
        restored = self.feed()
        restored.close()
        self._checkpoints = Checkpoints(self._intake, self._index, restored)

    # Write path.

    def ingest(self, topic: bytes, seq: int, payload: bytes) -> None:
        """Apply one message of a model server: its three frames, `seq` already an integer.

        For whoever has the messages in hand; sockets want a `Subscriber`. Batches that are missing
        between two cannot be asked for, and put the worker in doubt. Bad events inside are counted
        and skipped. Raises DecodeError when the payload is no batch at all, InputError when nobody
        says which pod and model it is from; both are counted as `refused_payloads` and change
        nothing else.
        """
        self._callers.receive(topic, seq, payload)

    def feed(
        self,
        names: FeedNames | None = None,
        has_replay: bool | Callable[[str, int], bool] = False,
        *,
        introduces: bool = False,
    ) -> Feed:
        """A door for one source of batches, with a connection that may break and be asked again.

        `names` stand in where topics and events have none. `has_replay`: whether past batches can be
        asked for, of all its workers or by (pod, rank). `introduces`: one replay socket answers for
        the source, also before anybody has spoken.
        """
        answers = has_replay if callable(has_replay) else lambda pod, rank: bool(has_replay)
        return Feed(self._intake, names or FeedNames(), answers, introduces=introduces)

    def save(self, folder: str | Path) -> CheckpointReport:
        """Write all that is held to a folder, while batches go on coming (docs/checkpoint_format.md).

        One file a worker and store, each whole or not there. It takes about half a second for a
        million blocks, during which the write path waits at most some milliseconds at a time. Raises
        CheckpointError when the folder cannot be made; other errors are in the report. One call at a
        time.
        """
        return self._checkpoints.save(Path(folder))

    def load(self, folder: str | Path) -> CheckpointReport:
        """Read what `save` has written, before any worker is heard. Wants the same `hash_seed`.

        What is torn, foreign or of another version, seed or worker is left out and said in the
        report. Workers loaded are in doubt until their replay socket has told what came since.
        """
        return self._checkpoints.load(Path(folder))

    def remove_pod(self, pod: str) -> None:
        """Forget a pod: its lanes are emptied; stores keep what it wrote. Unknown pods are ignored."""
        with self._intake.lock:
            self._fleet.remove_pod(pod)

    def reused(
        self, pod: str, predicted_tokens: int, actual_tokens: int, *, model: str, rank: int = 0
    ) -> None:
        """Tell how many tokens of a prompt a worker has reused, and how many were predicted.

        Predictions that fail again and again put the worker in doubt, and its history is asked for
        again. Compare requests whose predecessors' events had come. Unknown workers are ignored.
        """
        with self._intake.lock:
            worker = self._fleet.find(model, pod, rank)
            if worker is not None:
                worker.compare_reuse(predicted_tokens, actual_tokens)

    def _changed(self, old: State, new: State) -> None:
        self._transitions[f"{old}->{new}"] += 1

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
        strategy: Strategy = "reusable",
    ) -> Scores:
        """How much of a prompt each pod can reuse. Arguments as `kvatlas.block_keys`.

        `pods`: only these. `strategy`: "reusable" counts as the engine reuses (docs/indexer.md),
        "longest_prefix" the leading blocks held in any tier. A model that no server has announced
        scores nothing.
        """
        fleet = self._fleet
        state = fleet.models.get(model)
        keys = _keys(state, token_ids, lora, cache_salt, features)
        # Keys of two models never meet, but fnv64a_cbor puts a LoRA's name in the model's place.
        chosen = pods is not None or self.config.algorithm != "fold64"
        allowed = fleet.allowed(state, pods) if chosen and state is not None else None
        block_size = state.block_size if state is not None else 0
        matches = self._index.match(
            keys,
            allowed,
            prompt_tokens=count_tokens(token_ids),
            block_size_tokens=block_size,
            strategy=strategy,
        )
        truths: Mapping[int, Truth | ExtrasClaim] = fleet.truths
        if cache_salt is not None or features:
            truths = ExtrasClaims(fleet.truths)
        return Scores(
            matches,
            fleet.names,
            self._weights,
            prompt_blocks=len(keys),
            block_size_tokens=block_size,
            truths=truths,
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
        matches = self.score(
            token_ids, model=model, lora=lora, cache_salt=cache_salt, features=features, pods=pods
        ).matches
        return explain(model, state, token_ids, found, self._weights, wanted, matches)

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
        with self._intake.lock:
            return self._fleet.residency(model)

    def statistics(self) -> AtlasStatistics:
        """Counts, sizes and bounds of everything, at one moment."""
        intake = self._intake
        with intake.lock:
            return report(self._fleet, self._index, intake.counts, self._transitions, intake.clock_s())

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
