"""Reads an index in a server that other processes write: token ids in, scores out."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from kvatlas.index.choosing.looking import Look, all_serving
from kvatlas.index.choosing.serving import ServingPod
from kvatlas.index.errors import InputError
from kvatlas.index.fleet_view import FleetView
from kvatlas.index.keys import Feature, TokenIds
from kvatlas.index.prompts import Messages, Tokenizing, ids_of
from kvatlas.index.reading import Asked, AskedExplanation, AskedMany, LaneName, PromptReader
from kvatlas.index.remote.fleet.now import Now, RemoteReaderStatus
from kvatlas.index.scores import Explanation, Scores
from kvatlas.index.scores_batch import ScoresBatch
from kvatlas.index.shards import Strategy
from kvatlas.index.view import WorkerView

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Readable(Protocol):
    """What is known of the fleet, and how it is read: a `RemoteReading`."""

    @property
    def now(self) -> Now: ...
    @property
    def is_trusted(self) -> bool: ...
    @property
    def age_s(self) -> float: ...
    def believed(self) -> PromptReader[FleetView]: ...
    def status(self) -> RemoteReaderStatus: ...
    def refresh(self) -> None: ...
    def close(self) -> None: ...


class RemoteAtlas:
    """Answers from an index in a server. Any thread may call any method; `kvatlas.Chooser` takes it.

    A call waits for the server for its time limit at most. A server that is not reached holds nothing,
    as far as answers go: the scores are empty, `Scores.is_whole` is False and `status` says why and
    since when; it heals by itself.
    """

    def __init__(
        self,
        reading: Readable,
        *,
        tokenizers: Tokenizing | None = None,
        closes: Callable[[], object] = lambda: None,
    ) -> None:
        """`closes`: what ends with it. Tokenizers stay the caller's."""
        self._reading = reading
        self._tokenizers = tokenizers
        self._closes = closes
        self._told: dict[str, ServingPod] = {}
        self._changes = 0
        self._serving: tuple[Hashable, dict[str, ServingPod]] = (None, {})

    def score(
        self,
        token_ids: TokenIds | None = None,
        *,
        model: str,
        prompt: str | None = None,
        messages: Messages | None = None,
        lora: str | None = None,
        cache_salt: str | None = None,
        features: Iterable[Feature] | None = None,
        pods: Iterable[str] | None = None,
        strategy: Strategy = "reusable",
    ) -> Scores:
        """As `kvatlas.Atlas.score`: one round trip."""
        ids, features = ids_of(self._tokenizers, model, token_ids, prompt, messages, features)
        now = self._reading.now
        question = now.reader.question(
            ids,
            model=model,
            lora=lora,
            cache_salt=cache_salt,
            features=features,
            pods=pods,
            strategy=strategy,
        )
        matches, is_reached = now.matcher.match_all([question])
        believed = now.reader if is_reached and self._reading.is_trusted else now.distrusted
        return believed.scores(question, matches[0])

    def score_many(self, prompts: Sequence[TokenIds] | TokenIds, **asked: Unpack[AskedMany]) -> ScoresBatch:
        """As `kvatlas.Atlas.score_many`: one round trip for all."""
        now = self._reading.now
        questions = now.reader.questions(prompts, **asked)
        matches, is_reached = now.matcher.match_all(questions)
        believed = now.reader if is_reached and self._reading.is_trusted else now.distrusted
        return believed.scores_batch(questions, matches)

    def explain(self, token_ids: TokenIds, **asked: Unpack[AskedExplanation]) -> Explanation:
        """As `kvatlas.Atlas.explain`: two round trips."""
        return self._reading.believed().explain(token_ids, **asked)

    def lookup(self, keys: npt.NDArray[np.uint64]) -> list[dict[LaneName, int]]:
        """For each key of a chain from its start: tier bits by (pod, rank, group), or by name for a store."""
        return self._reading.now.reader.lookup(keys)

    # What choices are made from (`kvatlas.Chooser`).

    def look(self, token_ids: TokenIds, **asked: Unpack[Asked]) -> Look:
        """A prompt's matches and the workers of that moment; as `score`, without what it is worth."""
        now = self._reading.now
        question = now.reader.question(token_ids, **asked)
        matches, is_reached = now.matcher.match_all([question])
        is_believed = is_reached and self._reading.is_trusted
        believed = now.reader if is_believed else now.distrusted
        version = now.change, is_believed
        return Look(question, matches[0], believed.fleet, believed.weights, version, self._reading.age_s)

    def set_serving(self, pod: str, serving: ServingPod | None) -> None:
        """As `kvatlas.Atlas.set_serving`; for this reader alone."""
        if serving is not None and serving.pod != pod:
            raise InputError(f"serving.pod: expected {pod!r}, got {serving.pod!r}")
        told = {name: at for name, at in self._told.items() if name != pod}
        self._told = told if serving is None else {**told, pod: serving}
        self._changes += 1

    def serving_pods(self) -> Mapping[str, ServingPod]:
        """Pods that `set_serving` has described, and those that writers speak of. Do not change it."""
        version, pods = self._serving
        wanted = self.serving_version
        if version != wanted:
            pods = all_serving(self._told, self._reading.now.fleet.workers())
            self._serving = wanted, pods
        return pods

    @property
    def serving_version(self) -> Hashable:
        """Equal ones mean that `serving_pods` says the same."""
        return self._changes, self._reading.now.change

    def reused(
        self, pod: str, predicted_tokens: int, actual_tokens: int, *, model: str, rank: int = 0
    ) -> None:
        """Nothing: who mirrors the worker is in another process, which a pure reader has no way to."""

    # What it knows of itself.

    def pods(self) -> tuple[WorkerView, ...]:
        """Every worker, by pod and rank."""
        views = self._reading.believed().fleet.workers()
        return tuple(sorted(views, key=lambda view: (view.pod, view.rank, view.model)))

    def status(self) -> RemoteReaderStatus:
        """How the index is read now."""
        return self._reading.status()

    def refresh(self) -> None:
        """Ask the server now who there is; else that happens every `refresh_s`."""
        self._reading.refresh()

    def close(self) -> None:
        """Stop following, and close the connection. Twice is fine."""
        self._reading.close()
        self._closes()

    def __enter__(self) -> RemoteAtlas:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()
