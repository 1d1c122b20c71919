"""Choices, as a client of a cluster makes them."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Mapping
from typing import TYPE_CHECKING

from kvatlas.actors.reading.connection import Connection
from kvatlas.index.choosing.choice import Choice
from kvatlas.index.choosing.serving import ServingPod
from kvatlas.index.keys import TokenIds
from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.chat.request import chat_of
from kvatlas.tokenize.pool.prompt_service import ChatGiven

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from kvatlas.actors.choosing.router import Router, RouterStatistics
    from kvatlas.index.choosing.ask import Ask, AskFields
    from kvatlas.index.choosing.chooser import Chooser
    from kvatlas.index.choosing.receipts.receipt import Receipt


class ChoosingClient(ABC):
    """The half of a `Client` that chooses. Any thread may call any method.

    All clients of a process choose through one `Chooser`, made with the cluster's configuration when first
    asked for. What it reserves is known to every other process that chooses within some milliseconds, and
    forgotten there when the last client of this process is closed.
    """

    _router: Router | None = None

    @abstractmethod
    def _connected(self) -> Connection:
        """The process's connection to the cluster; the other half of the client has it."""

    # Which worker.

    def choose(
        self,
        token_ids: TokenIds | None = None,
        *,
        prompt: str | None = None,
        messages: ChatGiven | None = None,
        ask: Ask | None = None,
        **asked: Unpack[AskFields],
    ) -> Choice:
        """Where a request should go; counted as load there until `completed`, `failed` or silence.

        The prompt as in `score`; what else is asked in `ask`, or as keywords of its fields: `model`,
        `request_id`, `session`, `lora`, `cache_salt`, ... Raises NoWorkerError when nobody may serve it,
        OverloadedError (`retry_after_s`) when all who may have too much to do, InputError for a
        malformed request, ClusterError when the cluster cannot be found.
        """
        return self.chooser.choose(token_ids, prompt=prompt, messages=_chat(messages), ask=ask, **asked)

    async def choose_async(
        self,
        token_ids: TokenIds | None = None,
        *,
        prompt: str | None = None,
        messages: ChatGiven | None = None,
        ask: Ask | None = None,
        **asked: Unpack[AskFields],
    ) -> Choice:
        """As `choose`, for event loops: tokenizing and asking shards is awaited."""
        chooser = await self.chooser_async()
        return await chooser.choose_async(
            token_ids, prompt=prompt, messages=_chat(messages), ask=ask, **asked
        )

    def another(self, request_id: str, *, without: Collection[str]) -> Choice:
        """Where else a request should go whose pod could not be reached; its reservation goes along.

        `without`: pods that were tried. Raises as `choose`; InputError for a request that is not known.
        """
        return self.chooser.another(request_id, without=without)

    # What became of it.

    def prefill_done(self, request_id: str) -> bool:
        """Its first token came; false: unknown, late."""
        return self.chooser.prefill_done(request_id)

    def produced(self, request_id: str, tokens: int) -> bool:
        """So many tokens of its answer are there, in all."""
        return self.chooser.produced(request_id, tokens)

    def completed(
        self, request_id: str, *, cached_tokens: int | None = None, output_tokens: int | None = None
    ) -> bool:
        """It is served. `cached_tokens`: of its prompt, what the worker says that it has reused."""
        return self.chooser.completed(request_id, cached_tokens=cached_tokens, output_tokens=output_tokens)

    def failed(self, request_id: str, why: str = "") -> bool:
        """It will not be served there."""
        return self.chooser.failed(request_id, why)

    # Afterwards.

    def receipt(self, request_id: str, *, tenant: str = "", cache_salt: str | None = None) -> Receipt:
        """Why a request went where it went. Raises InputError for one that this process does not know, or
        that is another tenant's."""
        return self.chooser.receipt(request_id, tenant=tenant, cache_salt=cache_salt)

    def receipts(self, *, tenant: str = "", cache_salt: str | None = None, limit: int = 100) -> list[Receipt]:
        """A tenant's newest ones, of this process."""
        return self.chooser.receipts(tenant=tenant, cache_salt=cache_salt, limit=limit)

    def serving_pods(self) -> Mapping[str, ServingPod]:
        """Pods that requests can be sent to, as discovery and their events describe them."""
        return self._connected().reader().serving_pods()

    @property
    def serving_version(self) -> Hashable:
        """Equal ones mean that `serving_pods` says the same."""
        return self._connected().reader().serving_version

    def routing(self) -> RouterStatistics:
        """How this process shares its loads with others that choose."""
        return self._routed().statistics()

    @property
    def chooser(self) -> Chooser:
        """The process's chooser over this cluster. It works as long as the client is open."""
        return self._routed().chooser

    async def chooser_async(self) -> Chooser:
        """As `chooser`; connecting to the cluster is awaited."""
        router = self._router
        if router is None or router.reader.is_superseded:
            router = await asyncio.get_running_loop().run_in_executor(None, self._routed)
        return router.chooser

    def _routed(self) -> Router:
        router = self._router
        if router is None or router.reader.is_superseded:
            from kvatlas.actors.choosing.router import router_over

            router = self._router = router_over(self._connected())
        return router


def _chat(messages: ChatGiven | None) -> Chat | None:
    """Raises InputError, with the place, for what is none."""
    return None if messages is None else chat_of(messages)
