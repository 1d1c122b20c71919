"""What a gateway asks: a cluster's client, or whoever answers as one does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from kvatlas.index.choosing.choice import Choice
from kvatlas.index.choosing.serving import ServingPod
from kvatlas.index.keys import Feature, TokenIds
from kvatlas.index.scores import Explanation, Scores
from kvatlas.index.shards import Strategy
from kvatlas.index.view import WorkerView
from kvatlas.tokenize.chat.chat import Chat

if TYPE_CHECKING:
    from kvatlas.index.choosing.ask import Ask
    from kvatlas.index.choosing.chooser import Chooser
    from kvatlas.index.choosing.receipts.receipt import Receipt


class Backend(Protocol):
    """`kvatlas.Client` is one. Any thread; the `..._async` methods on event loops."""

    def score(
        self,
        token_ids: TokenIds | None = None,
        *,
        model: str,
        prompt: str | None = None,
        messages: Chat | None = None,
        lora: str | None = None,
        cache_salt: str | None = None,
        features: Iterable[Feature] | None = None,
        pods: Iterable[str] | None = None,
        strategy: Strategy = "reusable",
    ) -> Scores: ...
    async def score_async(
        self,
        token_ids: TokenIds | None = None,
        *,
        model: str,
        prompt: str | None = None,
        messages: Chat | None = None,
        lora: str | None = None,
        cache_salt: str | None = None,
        features: Iterable[Feature] | None = None,
        pods: Iterable[str] | None = None,
        strategy: Strategy = "reusable",
    ) -> Scores: ...
    def explain(
        self,
        token_ids: TokenIds | None = None,
        *,
        model: str,
        prompt: str | None = None,
        messages: Chat | None = None,
        lora: str | None = None,
        cache_salt: str | None = None,
        features: Iterable[Feature] | None = None,
        pods: Iterable[str] | None = None,
    ) -> Explanation: ...
    def choose(
        self,
        token_ids: TokenIds | None = None,
        *,
        prompt: str | None = None,
        messages: Chat | None = None,
        ask: Ask | None = None,
    ) -> Choice: ...
    async def choose_async(
        self,
        token_ids: TokenIds | None = None,
        *,
        prompt: str | None = None,
        messages: Chat | None = None,
        ask: Ask | None = None,
    ) -> Choice: ...
    def prefill_done(self, request_id: str) -> bool: ...
    def produced(self, request_id: str, tokens: int) -> bool: ...
    def completed(
        self, request_id: str, *, cached_tokens: int | None = None, output_tokens: int | None = None
    ) -> bool: ...
    def failed(self, request_id: str, why: str = "") -> bool: ...
    def receipt(self, request_id: str, *, tenant: str = "", cache_salt: str | None = None) -> Receipt: ...
    def pods(self) -> tuple[WorkerView, ...]: ...
    def serving_pods(self) -> Mapping[str, ServingPod]: ...
    @property
    def chooser(self) -> Chooser: ...
