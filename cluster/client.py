"""A cluster, for whoever asks it: a driver, an actor, a Serve replica, an event loop."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import ray

from kvatlas.actors.directory.status import ClusterStatus
from kvatlas.actors.orders import NAMESPACE, decode
from kvatlas.actors.reading.cluster_reader import ClusterReader
from kvatlas.actors.reading.connection import Connection, DirectoryCalls, connection_to
from kvatlas.actors.reading.reader_status import ReaderStatus
from kvatlas.actors.reading.settings import ReaderSettings
from kvatlas.actors.tokenizer.cluster_tokenizing import ClusterTokenizing
from kvatlas.cluster.client_choosing import ChoosingClient
from kvatlas.index.errors import ClusterError
from kvatlas.index.keys import Feature, TokenIds
from kvatlas.index.reading import Asked, AskedExplanation
from kvatlas.index.scores import Explanation, Scores
from kvatlas.index.scores_batch import ScoresBatch
from kvatlas.index.shards import Strategy
from kvatlas.index.view import WorkerView
from kvatlas.ingest.discovery.pods import DiscoveredPod, encode_pod
from kvatlas.tokenize.chat.request import chat_of
from kvatlas.tokenize.pool.prompt_service import ChatGiven, block_keys
from kvatlas.tokenize.prompt import TokenizedPrompt

if TYPE_CHECKING:
    from kvatlas.actors.tokenizer.figures import TokenizerFigures


class Client(ChoosingClient):
    """Asks one cluster. Any thread may call any method; clients of one process share a connection.

    Cheap to make and to pickle: it connects with the first call, in whatever process it then is, which
    must be connected to Ray. Actors that restart are found again. Reads need no Ray call: they look
    blocks up in shared memory where a shard lies on the own node, else ask the shard by its socket.
    """

    def __init__(self, cluster: str, settings: ReaderSettings | None = None) -> None:
        self.cluster = cluster
        self.settings = settings or ReaderSettings()
        self._connection: Connection | None = None
        self._texts: ClusterTokenizing | None = None
        self._is_closed = False

    # Reads.

    def score(
        self,
        token_ids: TokenIds | None = None,
        *,
        model: str,
        prompt: str | None = None,
        messages: ChatGiven | None = None,
        lora: str | None = None,
        cache_salt: str | None = None,
        features: Iterable[Feature] | None = None,
        pods: Iterable[str] | None = None,
        strategy: Strategy = "reusable",
    ) -> Scores:
        """How much of a prompt each pod can reuse. Arguments as `kvatlas.Atlas.score`.

        The prompt is one of `token_ids`, `prompt` (the text of a completion) and `messages` (a chat: its
        messages, a `kvatlas.Chat`, or the body of a request). Text is tokenized by the cluster's pool,
        in one Ray call, or in this process where there is none.

        `Scores.is_whole` is False while a shard of the prompt is missing or being filled; while the
        directory is silent for long, every match is DEGRADED. Raises ClusterError when the cluster
        cannot be found, InputError for a malformed prompt, TokenizerError where nobody can tokenize it,
        OverloadedError when all who can have too much to do.
        """
        asked = Asked(
            model=model,
            lora=lora,
            cache_salt=cache_salt,
            features=features,
            pods=pods,
            strategy=strategy,
        )
        if token_ids is not None and prompt is None and messages is None:
            return self._reader().score(token_ids, **asked)
        scores: Scores = self._tokenizing().read("score", token_ids, prompt, messages, asked)
        return scores

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
        """Scores of many prompts. Arguments as `kvatlas.Atlas.score_many`."""
        return self._reader().score_many(
            prompts,
            model=model,
            offsets=offsets,
            lora=lora,
            cache_salt=cache_salt,
            pods=pods,
            strategy=strategy,
        )

    def explain(
        self,
        token_ids: TokenIds | None = None,
        *,
        model: str,
        prompt: str | None = None,
        messages: ChatGiven | None = None,
        lora: str | None = None,
        cache_salt: str | None = None,
        features: Iterable[Feature] | None = None,
        pods: Iterable[str] | None = None,
    ) -> Explanation:
        """For each worker of the model: what it holds of the prompt, and why its match ends there."""
        asked = AskedExplanation(model=model, lora=lora, cache_salt=cache_salt, features=features, pods=pods)
        if token_ids is not None and prompt is None and messages is None:
            return self._reader().explain(token_ids, **asked)
        told: Explanation = self._tokenizing().read("explain", token_ids, prompt, messages, asked)
        return told

    def block_keys(
        self,
        token_ids: TokenIds | None = None,
        *,
        model: str,
        prompt: str | None = None,
        messages: ChatGiven | None = None,
        lora: str | None = None,
        cache_salt: str | None = None,
        features: Iterable[Feature] | None = None,
    ) -> npt.NDArray[np.uint64]:
        """The keys by which the shards know the full blocks of a prompt [n_blocks]. Arguments as `score`.

        Raises InputError for a model that no server has announced: its block size is not known.
        """
        asked = Asked(model=model, lora=lora, cache_salt=cache_salt, features=features)
        if token_ids is not None and prompt is None and messages is None:
            return block_keys(self._reader(), token_ids, asked)
        keys: npt.NDArray[np.uint64] = self._tokenizing().read(
            "block_keys", token_ids, prompt, messages, asked
        )
        return keys

    # Token ids.

    def encode(self, text: str, *, model: str, add_special_tokens: bool = True) -> TokenizedPrompt:
        """The token ids of a plain completion, as the model server computes them. Raises as `score`."""
        tokenized: TokenizedPrompt = self._tokenizing().ask("encode", text, model, add_special_tokens)
        return tokenized

    def encode_many(
        self, texts: Sequence[str], *, model: str, add_special_tokens: bool = True
    ) -> list[TokenizedPrompt]:
        """Of many plain completions in one call."""
        many: list[TokenizedPrompt] = self._tokenizing().ask("encode_many", texts, model, add_special_tokens)
        return many

    def encode_chat(self, chat: ChatGiven, *, model: str) -> TokenizedPrompt:
        """The token ids of a chat completion, with its multimodal items. Raises as `score`."""
        tokenized: TokenizedPrompt = self._tokenizing().ask("tokenize", chat_of(chat), model)
        return tokenized

    def tokenizer_statistics(self) -> dict[str, TokenizerFigures]:
        """How those who tokenize are: by number in the pool, or `own` where this process does."""
        return self._tokenizing().statistics()

    def pods(self) -> tuple[WorkerView, ...]:
        """Every worker of every pod, as readers see it: its groups, its state, its doubts."""
        return self._reader().pods()

    def reading(self) -> ReaderStatus:
        """How this process reads the cluster: shard by shard, and how old its view is."""
        return self._reader().status()

    # The same for event loops: what must be asked for is awaited.

    async def score_async(
        self,
        token_ids: TokenIds | None = None,
        *,
        model: str,
        prompt: str | None = None,
        messages: ChatGiven | None = None,
        lora: str | None = None,
        cache_salt: str | None = None,
        features: Iterable[Feature] | None = None,
        pods: Iterable[str] | None = None,
        strategy: Strategy = "reusable",
    ) -> Scores:
        """As `score`. Token ids are answered from shared memory at once, in some tens of microseconds."""
        asked = Asked(
            model=model,
            lora=lora,
            cache_salt=cache_salt,
            features=features,
            pods=pods,
            strategy=strategy,
        )
        if token_ids is not None and prompt is None and messages is None:
            return await (await self._reader_async()).score_async(token_ids, **asked)
        scores: Scores = await self._tokenizing().read_async("score", token_ids, prompt, messages, asked)
        return scores

    async def score_many_async(
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
        """As `score_many`. Its matches hold the event loop."""
        return await (await self._reader_async()).score_many_async(
            prompts,
            model=model,
            offsets=offsets,
            lora=lora,
            cache_salt=cache_salt,
            pods=pods,
            strategy=strategy,
        )

    async def explain_async(
        self,
        token_ids: TokenIds | None = None,
        *,
        model: str,
        prompt: str | None = None,
        messages: ChatGiven | None = None,
        lora: str | None = None,
        cache_salt: str | None = None,
        features: Iterable[Feature] | None = None,
        pods: Iterable[str] | None = None,
    ) -> Explanation:
        """As `explain`."""
        asked = AskedExplanation(model=model, lora=lora, cache_salt=cache_salt, features=features, pods=pods)
        if token_ids is not None and prompt is None and messages is None:
            return await (await self._reader_async()).explain_async(token_ids, **asked)
        told: Explanation = await self._tokenizing().read_async("explain", token_ids, prompt, messages, asked)
        return told

    async def block_keys_async(
        self,
        token_ids: TokenIds | None = None,
        *,
        model: str,
        prompt: str | None = None,
        messages: ChatGiven | None = None,
        lora: str | None = None,
        cache_salt: str | None = None,
        features: Iterable[Feature] | None = None,
    ) -> npt.NDArray[np.uint64]:
        """As `block_keys`."""
        asked = Asked(model=model, lora=lora, cache_salt=cache_salt, features=features)
        if token_ids is not None and prompt is None and messages is None:
            return block_keys(await self._reader_async(), token_ids, asked)
        keys: npt.NDArray[np.uint64] = await self._tokenizing().read_async(
            "block_keys", token_ids, prompt, messages, asked
        )
        return keys

    async def encode_async(
        self, text: str, *, model: str, add_special_tokens: bool = True
    ) -> TokenizedPrompt:
        """As `encode`."""
        tokenized: TokenizedPrompt = await self._tokenizing().ask_async(
            "encode", text, model, add_special_tokens
        )
        return tokenized

    async def encode_many_async(
        self, texts: Sequence[str], *, model: str, add_special_tokens: bool = True
    ) -> list[TokenizedPrompt]:
        """As `encode_many`."""
        many: list[TokenizedPrompt] = await self._tokenizing().ask_async(
            "encode_many", texts, model, add_special_tokens
        )
        return many

    async def encode_chat_async(self, chat: ChatGiven, *, model: str) -> TokenizedPrompt:
        """As `encode_chat`."""
        tokenized: TokenizedPrompt = await self._tokenizing().ask_async("tokenize", chat_of(chat), model)
        return tokenized

    # The cluster.

    def status(self) -> ClusterStatus:
        """How the cluster is, as its directory knows it: one Ray call."""
        return self.directory().ask("status", ClusterStatus)

    async def status_async(self) -> ClusterStatus:
        """As `status`."""
        return decode(await self.directory().call_async("status"), ClusterStatus)

    def add_pod(self, pod: DiscoveredPod) -> None:
        """Have the cluster follow a pod. Raises InputError when it cannot be."""
        self.directory().call("add_pod", encode_pod(pod))

    def remove_pod(self, pod: str) -> bool:
        """Forget a pod that was added; false when there was none of this name."""
        return bool(self.directory().call("remove_pod", pod))

    def scorer(self, number: int | None = None) -> Any:
        """Ray's handle of a scorer, for those who cannot read themselves: `.score.remote(token_ids,
        model=...)`, `score_many`, `explain`. Of several one by chance, or that with this number.

        Raises ClusterError when there is none.
        """
        names = list(self.status().scorers) if number is None else [f"{self.cluster}/scorer/{number}"]
        random.shuffle(names)
        for name in names:
            try:
                return ray.get_actor(name, namespace=NAMESPACE)
            except ValueError:
                continue
        raise ClusterError(f"cluster {self.cluster!r}: expected a scorer, found none of {names}")

    def directory(self) -> DirectoryCalls:
        """Calls the cluster's directory, wherever it is just now."""
        return self._connected().calls

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until it can be read. Raises ClusterError when it cannot in time."""
        self._reader().wait_ready(timeout_s)

    def close(self) -> None:
        """Let go of the connection; it ends with the last client that holds it. Twice is fine."""
        self._is_closed = True
        self._connection = self._texts = self._router = None

    def _connected(self) -> Connection:
        connection = self._connection
        if connection is None:
            if self._is_closed:
                raise ClusterError(f"cluster {self.cluster!r}: expected an open client, got a closed one")
            connection = self._connection = connection_to(self.cluster, self.settings)
        return connection

    def _tokenizing(self) -> ClusterTokenizing:
        texts = self._texts
        if texts is None:
            texts = self._texts = ClusterTokenizing(self._connected())
        return texts

    def _reader(self) -> ClusterReader:
        return (self._connection or self._connected()).reader()

    async def _reader_async(self) -> ClusterReader:
        connection = self._connection or self._connected()
        if connection.is_ready:
            return connection.reader()
        return await asyncio.get_running_loop().run_in_executor(None, connection.reader)

    def __reduce__(self) -> tuple[Any, ...]:
        return Client, (self.cluster, self.settings)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.cluster!r})"
