"""Which pod gets a request: the two ways that the demo compares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kvatlas.cluster.demo.traffic import TokenIds
from kvatlas.index.scores import Scores


class Scoring(Protocol):
    """Whoever knows what pods hold of a prompt: an `Atlas`, or the `Client` of a cluster."""

    def score(self, token_ids: TokenIds, *, model: str) -> Scores: ...


class Policy(Protocol):
    """A way to choose."""

    name: str

    def choose(self, prompt: TokenIds, work: Sequence[int]) -> tuple[int, Scores | None]:
        """The index of a pod, and the scores it was chosen by, if any.

        `work` is what each pod has had to compute so far, in tokens [n_pods].
        """
        ...


class ByScore:
    """The pod with the highest score; of several, or where nobody holds anything, the least worked.

    It follows prefixes wherever they lead: a prefix in fashion keeps its pod busy.
    """

    name = "by score"

    def __init__(self, atlas: Scoring, model: str, pods: Sequence[str]) -> None:
        self._atlas = atlas
        self._model = model
        self._pods = pods

    def choose(self, prompt: TokenIds, work: Sequence[int]) -> tuple[int, Scores]:
        scores = self._atlas.score(prompt, model=self._model)
        best = max(scores.values(), default=0.0)
        candidates = [number for number, pod in enumerate(self._pods) if scores.get(pod, 0.0) == best]
        return min(candidates, key=work.__getitem__), scores


class RoundRobin:
    """Each pod in turn."""

    name = "round robin"

    def __init__(self) -> None:
        self._next = 0

    def choose(self, prompt: TokenIds, work: Sequence[int]) -> tuple[int, None]:
        chosen = self._next
        self._next = (chosen + 1) % len(work)
        return chosen, None
