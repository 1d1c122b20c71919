"""What a choice is made from: one look at a prompt's matches, and the pods that requests can be sent to."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from kvatlas.index.choosing.serving import Serving, ServingPod
from kvatlas.index.keys import TokenIds
from kvatlas.index.reading import Asked, Fleet, Question
from kvatlas.index.shards import Matches

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from kvatlas.index.view import WorkerView


class Look(NamedTuple):
    """A prompt, what an index has of it, and the workers of that moment."""

    question: Question
    matches: Matches
    fleet: Fleet
    weights: npt.NDArray[np.float64]
    """[5] what a block counts by tier."""
    version: Hashable
    """Equal ones mean the same workers in the same states."""
    age_s: float = 0.0
    """Since what is known of the workers' states was last confirmed. 0: it is known at first hand."""


class Looker(Protocol):
    """Looks prompts up: an atlas, or the reader of a cluster. Any thread may call it."""

    def look(self, token_ids: TokenIds, **asked: Unpack[Asked]) -> Look:
        """As `score`, without what it is worth; no token ids (b"") look at the workers alone."""
        ...

    def serving_pods(self) -> Mapping[str, ServingPod]:
        """By pod: those that somebody has described, and those whose events are heard."""
        ...

    @property
    def serving_version(self) -> Hashable:
        """Equal ones mean that `serving_pods` says the same."""
        ...

    def reused(
        self, pod: str, predicted_tokens: int, actual_tokens: int, *, model: str, rank: int = 0
    ) -> None:
        """What a worker has reused, for whoever mirrors it; as `Atlas.reused`. Never waits."""
        ...


class AsyncLooker(Looker, Protocol):
    """Where a look may have to wait for other processes."""

    async def look_async(self, token_ids: TokenIds, **asked: Unpack[Asked]) -> Look:
        """As `look`, awaited."""
        ...


def all_serving(told: Mapping[str, ServingPod], heard: Iterable[WorkerView]) -> dict[str, ServingPod]:
    """Pods that are described, and of the others heard what their workers say.

    One that is described without a model ("") has that of its workers; until they are heard it is left
    out.
    """
    pods = {pod: serving for pod, serving in told.items() if serving.model}
    ranks: dict[str, int] = {}
    for worker in heard:
        described = told.get(worker.pod)
        if described is None:
            ranks[worker.pod] = max(ranks.get(worker.pod, 0), worker.rank + 1)
            serving = Serving(ranks=ranks[worker.pod])
            pods[worker.pod] = ServingPod(pod=worker.pod, model=worker.model, serving=serving)
        elif not described.model:
            pods[worker.pod] = msgspec.structs.replace(described, model=worker.model)
    return pods
