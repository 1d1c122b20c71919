"""Reads: token ids in, scores out, over any index and any fleet.

The embedded atlas and the readers of a cluster answer with this code; they differ in where the tables
lie and in who tells of the workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypedDict, TypeVar

import numpy as np
import numpy.typing as npt

from kvatlas.index._native import Keyspace
from kvatlas.index.claims import Claim, ExtrasClaims
from kvatlas.index.explaining import explain
from kvatlas.index.keys import Algorithm, Feature, TokenIds
from kvatlas.index.prompts import count_tokens, split_prompts
from kvatlas.index.scores import DEFAULT_TIER_WEIGHTS, TIERS, Explanation, Scores, Truth, Worker
from kvatlas.index.scores_batch import ScoresBatch
from kvatlas.index.shards import Matches, Strategy
from kvatlas.index.view import WorkerView

NO_KEYS = np.empty(0, np.uint64)
LaneName = tuple[str, int, int] | str
"""Pod, rank and KV-cache group; or the name of a store."""


class ModelSpace(Protocol):
    """What prompts of one model are keyed with."""

    @property
    def keyspace(self) -> Keyspace | None: ...
    @property
    def block_size(self) -> int: ...


class Fleet(Protocol):
    """What a reader must know of the workers. May change between two calls, never while one runs."""

    @property
    def models(self) -> Mapping[str, ModelSpace]: ...
    @property
    def names(self) -> Mapping[int, Worker]: ...
    @property
    def truths(self) -> Mapping[int, Claim]: ...
    @property
    def lane_names(self) -> Mapping[int, LaneName]: ...
    @property
    def store_lanes(self) -> Mapping[str, int]: ...
    def allowed(self, model: str, pods: Iterable[str] | None) -> bytearray:
        """One byte a worker number: 1 for the model's workers, of these pods where given."""
        ...

    def views(self, model: str) -> Sequence[WorkerView]:
        """The model's workers."""
        ...


class Matcher(Protocol):
    """An index: tables here, tables of other processes, or what was fetched of them."""

    def match(
        self,
        keys: npt.NDArray[np.uint64],
        allowed: bytes | bytearray | None = None,
        *,
        prompt_tokens: int = 0,
        block_size_tokens: int = 0,
        strategy: Strategy = "longest_prefix",
    ) -> Matches: ...
    def lookup(self, keys: npt.NDArray[np.uint64]) -> list[list[tuple[int, int]]]: ...


class OfModel(TypedDict):
    """What every read must name."""

    model: str


class Asked(OfModel, total=False):
    """Keyword arguments of `PromptReader.score`, for those who pass them on."""

    lora: str | None
    cache_salt: str | None
    features: Iterable[Feature] | None
    pods: Iterable[str] | None
    strategy: Strategy


class AskedExplanation(OfModel, total=False):
    """Keyword arguments of `PromptReader.explain`."""

    lora: str | None
    cache_salt: str | None
    features: Iterable[Feature] | None
    pods: Iterable[str] | None


class AskedMany(OfModel, total=False):
    """Keyword arguments of `PromptReader.score_many`."""

    offsets: Sequence[int] | npt.NDArray[np.integer[Any]] | None
    lora: str | None
    cache_salt: str | None
    pods: Iterable[str] | None
    strategy: Strategy


class Question(NamedTuple):
    """A prompt, keyed: all that a match needs besides an index."""

    keys: npt.NDArray[np.uint64]
    """[n_blocks]"""
    prompt_tokens: int
    block_size_tokens: int
    """0 while the model's is not known: there are no keys then."""
    allowed: bytearray | None
    strategy: Strategy
    has_extras: bool
    """It has a salt or multimodal items."""


F = TypeVar("F", bound=Fleet)


class PromptReader(Generic[F]):
    """Answers from a fleet and an index. Any thread may call any method, as far as those two allow it."""

    def __init__(
        self,
        fleet: F,
        matcher: Matcher,
        *,
        algorithm: Algorithm = "fold64",
        tier_weights: Mapping[str, float] | None = None,
    ) -> None:
        """`tier_weights` in place of the defaults, for the tiers that it names."""
        self.fleet = fleet
        self.matcher = matcher
        # Keys of two models never meet, but fnv64a_cbor puts a LoRA's name in the model's place.
        self._always_chooses = algorithm != "fold64"
        weights = {**DEFAULT_TIER_WEIGHTS, **(tier_weights or {})}
        self.weights = np.array([weights[tier] for tier in TIERS], np.float64)

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
        question = self.question(
            token_ids,
            model=model,
            lora=lora,
            cache_salt=cache_salt,
            features=features,
            pods=pods,
            strategy=strategy,
        )
        return self.scores(question, match(self.matcher, question))

    def question(
        self,
        token_ids: TokenIds,
        *,
        model: str,
        lora: str | None = None,
        cache_salt: str | None = None,
        features: Iterable[Feature] | None = None,
        pods: Iterable[str] | None = None,
        strategy: Strategy = "reusable",
    ) -> Question:
        """The prompt as keys. Raises InputError for token ids that are none."""
        space = self.fleet.models.get(model)
        if space is None or space.keyspace is None:
            return Question(NO_KEYS, count_tokens(token_ids), 0, None, strategy, False)
        if features is not None and not isinstance(features, (list, tuple)):
            features = list(features)
        keys = space.keyspace.keys(token_ids, lora, cache_salt, features)
        allowed = self.fleet.allowed(model, pods) if pods is not None or self._always_chooses else None
        has_extras = cache_salt is not None or bool(features)
        return Question(keys, count_tokens(token_ids), space.block_size, allowed, strategy, has_extras)

    def scores(self, question: Question, matches: Matches) -> Scores:
        """What the question's matches are worth."""
        return Scores(
            matches,
            self.fleet.names,
            self.weights,
            prompt_blocks=len(question.keys),
            block_size_tokens=question.block_size_tokens,
            truths=self._truths(question.has_extras),
        )

    def _truths(self, has_extras: bool) -> Mapping[int, Truth]:
        return ExtrasClaims(self.fleet.truths) if has_extras else self.fleet.truths

    def score_many(
        self,
        prompts: Sequence[TokenIds] | TokenIds,
        *,
        model: str,
        offsets: Sequence[int] | npt.NDArray[np.integer[Any]] | None = None,
        lora: str | None = None,
        cache_salt: str | None = None,
        pods: Iterable[str] | None = None,
        strategy: Strategy = "reusable",
    ) -> ScoresBatch:
        """Scores of many prompts of one model, as if asked one by one.

        `prompts`: one after the other, or one flat buffer of uint32 token ids with `offsets` [n + 1]
        in tokens, so that prompt i has the ids from offsets[i] to offsets[i + 1].
        """
        questions = self.questions(
            prompts,
            model=model,
            offsets=offsets,
            lora=lora,
            cache_salt=cache_salt,
            pods=pods,
            strategy=strategy,
        )
        return self.scores_batch(questions, [match(self.matcher, question) for question in questions])

    def questions(
        self,
        prompts: Sequence[TokenIds] | TokenIds,
        *,
        model: str,
        offsets: Sequence[int] | npt.NDArray[np.integer[Any]] | None = None,
        lora: str | None = None,
        cache_salt: str | None = None,
        pods: Iterable[str] | None = None,
        strategy: Strategy = "reusable",
    ) -> list[Question]:
        """Each prompt as keys. Raises InputError where a prompt or the offsets are malformed."""
        chosen = None if pods is None else frozenset([pods] if isinstance(pods, str) else pods)
        return [
            self.question(
                prompt, model=model, lora=lora, cache_salt=cache_salt, pods=chosen, strategy=strategy
            )
            for prompt in split_prompts(prompts, offsets)
        ]

    def scores_batch(self, questions: Sequence[Question], matches: Sequence[Matches]) -> ScoresBatch:
        """What the matches of questions of one model are worth."""
        has_extras = bool(questions) and questions[0].has_extras
        return ScoresBatch.of(
            matches,
            self.fleet.names,
            self.weights,
            prompt_blocks=[len(question.keys) for question in questions],
            block_size_tokens=questions[0].block_size_tokens if questions else 0,
            truths=self._truths(has_extras),
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
        wanted = None if pods is None else {pods} if isinstance(pods, str) else set(pods)
        question = self.question(
            token_ids, model=model, lora=lora, cache_salt=cache_salt, features=features, pods=wanted
        )
        held = self.matcher.lookup(question.keys)
        return self.explanation(model, question, wanted, held, match(self.matcher, question))

    def explanation(
        self,
        model: str,
        question: Question,
        pods: set[str] | None,
        held: Sequence[Sequence[tuple[int, int]]],
        matches: Matches,
    ) -> Explanation:
        """What was found, at length: `held` are lanes and tier bits of each block [n_blocks]."""
        fleet = self.fleet
        return explain(
            model,
            fleet.models.get(model),
            [view for view in fleet.views(model) if pods is None or view.pod in pods],
            fleet.store_lanes,
            fleet.lane_names,
            [dict(holders) for holders in held],
            weights=self.weights,
            prompt_tokens=question.prompt_tokens,
            scores=self.scores(question, matches),
        )

    def lookup(self, keys: npt.NDArray[np.uint64]) -> list[dict[LaneName, int]]:
        """For each block key: tier bits by (pod, rank, group), or by name for a store."""
        lanes = self.fleet.lane_names
        found = []
        for held in self.matcher.lookup(keys):
            named = ((lanes.get(lane), mask) for lane, mask in held)
            found.append({name: mask for name, mask in named if name is not None})
        return found


def match(matcher: Matcher, question: Question) -> Matches:
    """What an index has of a prompt."""
    return matcher.match(
        question.keys,
        question.allowed,
        prompt_tokens=question.prompt_tokens,
        block_size_tokens=question.block_size_tokens,
        strategy=question.strategy,
    )
