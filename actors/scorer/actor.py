"""A scorer: answers for those who cannot, or would rather not, read the shards themselves."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import ray

from kvatlas.actors.choosing.router import Router, router_over
from kvatlas.actors.orders import decode, encode
from kvatlas.actors.reading.connection import DirectoryCalls, connection_to
from kvatlas.actors.scorer.settings import ScorerSettings
from kvatlas.actors.tokenizer.cluster_tokenizing import ClusterTokenizing
from kvatlas.index.choosing.choice import Choice
from kvatlas.index.choosing.chooser import Chooser
from kvatlas.index.choosing.receipts.receipt import Receipt
from kvatlas.index.keys import TokenIds
from kvatlas.index.scores import Explanation, Scores
from kvatlas.index.scores_batch import ScoresBatch
from kvatlas.tokenize.chat.request import chat_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from kvatlas.index.choosing.ask import AskFields
    from kvatlas.index.reading import Asked, AskedExplanation, AskedMany
    from kvatlas.tokenize.pool.prompt_service import ChatGiven

_LOOK_S = 1.0


class _ScorerActor:
    """Holds a reader and forwards. Calls run in threads, so that waits for remote shards overlap.

    It keeps nothing but what it has reserved: a restarted one reads on, and others forget its loads.
    """

    def __init__(self, cluster: str, number: int, settings: bytes) -> None:
        """`settings`: bytes of ScorerSettings."""
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
        self._settings = decode(settings, ScorerSettings)
        self._number = number
        self._connection = connection_to(cluster, self._settings.reading)
        self._tokenizing = ClusterTokenizing(self._connection)
        self._router: Router | None = None
        if self._settings.owned:
            watch = threading.Thread(target=self._end_with, args=(cluster,), name="owner", daemon=True)
            watch.start()

    def score(
        self,
        token_ids: TokenIds | None = None,
        *,
        prompt: str | None = None,
        messages: ChatGiven | None = None,
        **asked: Unpack[Asked],
    ) -> Scores:
        """As `kvatlas.Atlas.score`; bytes of uint32 travel cheapest."""
        if token_ids is not None and prompt is None and messages is None:
            return self._connection.reader().score(token_ids, **asked)
        scores: Scores = self._tokenizing.read("score", token_ids, prompt, messages, asked)
        return scores

    def score_many(self, prompts: Sequence[TokenIds] | TokenIds, **asked: Unpack[AskedMany]) -> ScoresBatch:
        """As `kvatlas.Atlas.score_many`; one flat buffer with offsets travels cheapest."""
        return self._connection.reader().score_many(prompts, **asked)

    def explain(
        self,
        token_ids: TokenIds | None = None,
        *,
        prompt: str | None = None,
        messages: ChatGiven | None = None,
        **asked: Unpack[AskedExplanation],
    ) -> Explanation:
        """As `kvatlas.Atlas.explain`."""
        if token_ids is not None and prompt is None and messages is None:
            return self._connection.reader().explain(token_ids, **asked)
        told: Explanation = self._tokenizing.read("explain", token_ids, prompt, messages, asked)
        return told

    def choose(
        self,
        token_ids: TokenIds | None = None,
        *,
        prompt: str | None = None,
        messages: ChatGiven | None = None,
        **asked: Unpack[AskFields],
    ) -> Choice:
        """As `kvatlas.Client.choose`; how the request goes on is told to the same scorer."""
        chat = None if messages is None else chat_of(messages)
        return self._chooser().choose(token_ids, prompt=prompt, messages=chat, **asked)

    def prefill_done(self, request_id: str) -> bool:
        """As `kvatlas.Client.prefill_done`."""
        return self._chooser().prefill_done(request_id)

    def produced(self, request_id: str, tokens: int) -> bool:
        """As `kvatlas.Client.produced`."""
        return self._chooser().produced(request_id, tokens)

    def completed(
        self, request_id: str, *, cached_tokens: int | None = None, output_tokens: int | None = None
    ) -> bool:
        """As `kvatlas.Client.completed`."""
        return self._chooser().completed(request_id, cached_tokens=cached_tokens, output_tokens=output_tokens)

    def failed(self, request_id: str, why: str = "") -> bool:
        """As `kvatlas.Client.failed`."""
        return self._chooser().failed(request_id, why)

    def receipt(self, request_id: str, *, tenant: str = "", cache_salt: str | None = None) -> Receipt:
        """As `kvatlas.Client.receipt`, of what this scorer has chosen."""
        return self._chooser().receipt(request_id, tenant=tenant, cache_salt=cache_salt)

    @ray.method
    def reading(self) -> bytes:
        """How it reads the cluster: bytes of ReaderStatus."""
        return encode(self._connection.reader().status())

    def ping(self, token_ids: TokenIds = b"", **asked: object) -> int:
        """Its number: what a call with these arguments costs without any work in it."""
        return self._number

    def _chooser(self) -> Chooser:
        router = self._router
        if router is None or router.reader.is_superseded:
            router = self._router = router_over(self._connection)
        return router.chooser

    def _end_with(self, cluster: str) -> None:
        """The cluster goes with its driver, and the scorer with the cluster."""
        itself = ray.get_runtime_context().current_actor
        calls = DirectoryCalls(cluster)
        seen_s = time.monotonic()
        while time.monotonic() - seen_s < self._settings.directory_gone_s_max:
            time.sleep(_LOOK_S)
            if not calls.is_gone():
                seen_s = time.monotonic()
        ray.kill(itself, no_restart=True)


ScorerActor = ray.remote(_ScorerActor)
