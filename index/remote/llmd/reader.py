"""Scores from an index that llm-d keeps: nothing is known of its pods but what is read."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from kvatlas.index._native import Index
from kvatlas.index.fleet_view import FleetView
from kvatlas.index.keys import Algorithm, Feature, TokenIds
from kvatlas.index.reading import PromptReader
from kvatlas.index.remote.llmd.llmd_index import LlmdIndex
from kvatlas.index.scores import Scores
from kvatlas.index.shards import Strategy, match

ALGORITHM: Algorithm = "fnv64a_cbor"
LLMD_WEIGHTS = {"gpu": 1.0, "cpu": 0.8, "disk": 1.0, "storage": 1.0, "unknown": 1.0}
"""As llm-d weighs by default: a tier that its configuration does not name counts in full, and so does what is
speculative."""


class _Seen(NamedTuple):
    """The pods read of so far, and who answers of them."""

    version: int
    reader: PromptReader[FleetView]


class LlmdReader:
    """Scores of one model's prompts, of pods discovered as they are read of. Any thread may call any method.

    Every pod's state is BLIND: llm-d says nothing of what its index may miss. Which model a pod serves is
    known by the keys it holds, so an index with discovered names is read for one model.
    """

    def __init__(
        self,
        index: LlmdIndex,
        *,
        model: str,
        block_size: int = 16,
        hash_seed: str = "",
        tier_weights: Mapping[str, float] | None = None,
    ) -> None:
        """`index`: with names that discover. `block_size` in tokens, `hash_seed`: as llm-d is configured.

        `tier_weights` in place of llm-d's, for the tiers that it names.
        """
        self._index = index
        self._model = model
        self._block_size = block_size
        self._hash_seed = hash_seed
        self._weights = {**LLMD_WEIGHTS, **(tier_weights or {})}
        self._lock = threading.Lock()
        self._seen = self._look()

    @property
    def fleet(self) -> FleetView:
        """Who was read of so far."""
        return self._seen.reader.fleet

    def score(
        self,
        token_ids: TokenIds,
        *,
        lora: str | None = None,
        features: Iterable[Feature] | None = None,
        pods: Iterable[str] | None = None,
        strategy: Strategy = "longest_prefix",
    ) -> Scores:
        """How much of a prompt each pod holds: one round trip. `pods`: only these.

        `longest_prefix` is llm-d's score; `reusable` leaves out the last block of a prompt held whole.
        Raises RemoteIndexError when the server cannot be used.
        """
        some = None if pods is None else [pods] if isinstance(pods, str) else list(pods)
        seen = self._seen
        question = seen.reader.question(
            token_ids, model=self._model, lora=lora, features=features, pods=some, strategy=strategy
        )
        excerpt = self._index.fetch([question.keys])
        if seen.version != self._index.names.version:
            seen = self._refresh()
        fleet = seen.reader.fleet
        matches = match(
            Index([excerpt], fleet.roster),
            question.keys,
            fleet.allowed(self._model, some),
            question.prompt_tokens,
            question.block_size_tokens,
            strategy,
            excerpt.whole,
        )
        return seen.reader.scores(question, matches)

    def _refresh(self) -> _Seen:
        with self._lock:
            if self._seen.version != self._index.names.version:
                self._seen = self._look()
            return self._seen

    def _look(self) -> _Seen:
        version = self._index.names.version  # before the look: what comes meanwhile is looked at once more
        part = self._index.names.part(self._model, self._block_size)
        fleet = FleetView.of([part], algorithm=ALGORITHM, hash_seed=self._hash_seed)
        return _Seen(
            version, PromptReader(fleet, self._index, algorithm=ALGORITHM, tier_weights=self._weights)
        )
