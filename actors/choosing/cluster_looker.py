"""What a chooser looks at in a cluster: its reader, and where it tells what was reused."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING

from kvatlas.actors.choosing.reuse_feedback import ReuseFeedback
from kvatlas.actors.reading.cluster_reader import ClusterReader
from kvatlas.index.choosing.looking import Look
from kvatlas.index.choosing.serving import ServingPod
from kvatlas.index.keys import TokenIds
from kvatlas.index.reading import Asked

if TYPE_CHECKING:
    from typing_extensions import Unpack


class ClusterLooker:
    """An `AsyncLooker` over the reader of a cluster. Any thread may call it."""

    def __init__(self, reader: ClusterReader, feedback: ReuseFeedback) -> None:
        self._reader = reader
        self._feedback = feedback

    def look(self, token_ids: TokenIds, **asked: Unpack[Asked]) -> Look:
        return self._reader.look(token_ids, **asked)

    async def look_async(self, token_ids: TokenIds, **asked: Unpack[Asked]) -> Look:
        return await self._reader.look_async(token_ids, **asked)

    def serving_pods(self) -> Mapping[str, ServingPod]:
        return self._reader.serving_pods()

    @property
    def serving_version(self) -> Hashable:
        return self._reader.serving_version

    def reused(
        self, pod: str, predicted_tokens: int, actual_tokens: int, *, model: str, rank: int = 0
    ) -> None:
        """Told to the subscriber of the pod with the next report."""
        self._feedback.note(pod, rank, model, predicted_tokens, actual_tokens)
