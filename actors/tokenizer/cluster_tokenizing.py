"""Texts and chats for whoever asks a cluster: by its pool, or in this process with the same classes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from kvatlas.actors.orders import decode
from kvatlas.actors.reading.cluster_reader import ClusterReader
from kvatlas.actors.reading.connection import Connection
from kvatlas.actors.tokenizer.parcels import Packed, bytes_of, model_of, pack, unpack_answer
from kvatlas.actors.tokenizer.pool_calls import PoolCalls
from kvatlas.actors.tokenizer.settings import TokenizerSettings
from kvatlas.index.errors import InputError
from kvatlas.index.keys import TokenIds
from kvatlas.index.prompts import Messages, check_one
from kvatlas.index.reading import Asked, AskedExplanation
from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.pool.affinity import conversation_of
from kvatlas.tokenize.pool.own_process import OwnProcess, own_process
from kvatlas.tokenize.pool.prompt_service import ChatGiven, PromptService, Text, text_of
from kvatlas.tokenize.pool.sizes import bytes_held

if TYPE_CHECKING:
    from kvatlas.actors.tokenizer.figures import TokenizerFigures

T = TypeVar("T", Asked, AskedExplanation)
Ask = Text | Sequence[str]
"""A text, a chat, or many texts."""
_TIMES = 2
"""So much longer than one text may be what many texts hold, or a chat, which has images in it."""


class _Way(NamedTuple):
    """How one cluster is asked. Another start of it may have other settings."""

    reader: ClusterReader
    settings: TokenizerSettings
    pool: PoolCalls | None
    own: OwnProcess | None
    service: PromptService | None


class ClusterTokenizing:
    """Asks one cluster about texts. Any thread may call it.

    Methods are named as those of `PromptService`, and return what they do.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._way: _Way | None = None

    def ask(self, method: str, text: Ask, *arguments: object) -> Any:
        """What `PromptService.<method>(text, *arguments)` returns."""
        way = self._ready()
        if way.pool is None:
            return getattr(way.service, method)(text, *arguments)
        packed = _packed(text, way.settings)
        return unpack_answer(method, way.pool.call(_conversation(text), method, packed, *arguments))

    async def ask_async(self, method: str, text: Ask, *arguments: object) -> Any:
        """The same, awaited; in this process it waits in a bounded queue of its own."""
        connection, way = self._connection, self._way
        if way is None or not connection.is_ready or way.reader is not connection.reader():
            way = await asyncio.get_running_loop().run_in_executor(None, self._ready)
        if way.own is not None:
            run = _bound(getattr(way.service, method), text, arguments)
            is_slow = not way.own.tokenizers.is_at_hand(model_of(arguments))
            return await asyncio.wrap_future(way.own.work.submit(run, bytes_held(text), is_slow=is_slow))
        assert way.pool is not None
        packed = _packed(text, way.settings)
        answer = await way.pool.call_async(_conversation(text), method, packed, *arguments)
        return unpack_answer(method, answer)

    def read(
        self,
        method: str,
        token_ids: TokenIds | None,
        prompt: str | None,
        messages: ChatGiven | None,
        asked: T,
    ) -> Any:
        """`ask` of a prompt or chat however it was given. Raises InputError unless it is one of them."""
        return self.ask(method, _text(token_ids, prompt, messages), _listed(asked))

    async def read_async(
        self,
        method: str,
        token_ids: TokenIds | None,
        prompt: str | None,
        messages: ChatGiven | None,
        asked: T,
    ) -> Any:
        """The same, awaited."""
        return await self.ask_async(method, _text(token_ids, prompt, messages), _listed(asked))

    def statistics(self) -> dict[str, TokenizerFigures]:
        """By tokenizer: its number, or `own`. Those that do not answer are left out."""
        from kvatlas.actors.tokenizer.figures import TokenizerFigures

        way = self._ready()
        if way.pool is not None:
            told = way.pool.each("statistics")
            return {str(number): decode(figures, TokenizerFigures) for number, figures in told.items()}
        assert way.own is not None
        work, tokenizers = way.own.work.statistics(), way.own.tokenizers.statistics()
        return {"own": TokenizerFigures(work=work, tokenizers=tokenizers)}

    def _ready(self) -> _Way:
        reader, way = self._connection.reader(), self._way
        if way is None or way.reader is not reader:
            way = self._way = self._made(reader)
        return way

    def _made(self, reader: ClusterReader) -> _Way:
        told = reader.tokenizer_settings
        settings = decode(told, TokenizerSettings) if told else TokenizerSettings()
        connection = self._connection  # not through self: who holds himself is not freed at once
        if settings.has_pool:
            cluster = connection.calls.cluster
            calls = PoolCalls(cluster, lambda: connection.reader().tokenizers, settings.call_s_max)
            return _Way(reader, settings, calls, None, None)
        own = own_process(settings.tokenize, settings.work)
        return _Way(reader, settings, None, own, PromptService(own.tokenizers, connection.reader))


def _text(token_ids: TokenIds | None, prompt: str | None, messages: ChatGiven | None) -> Text:
    check_one(token_ids, prompt, cast("Messages | None", messages))
    return text_of(prompt, messages)


def _listed(asked: T) -> T:
    """Without iterators: it may travel, and be asked a second time."""
    features, pods = asked.get("features"), asked.get("pods")
    if features is not None:
        asked["features"] = list(features)
    if pods is not None:
        asked["pods"] = [pods] if isinstance(pods, str) else list(pods)
    return asked


def _bound(method: Callable[..., Any], text: Ask, arguments: tuple[object, ...]) -> Callable[[], Any]:
    return lambda: method(text, *arguments)


def _packed(text: Ask, settings: TokenizerSettings) -> Packed:
    """Ready to travel. Raises InputError for what is too large to: nobody there would take it."""
    packed = pack(text)
    bytes_max = settings.tokenize.limits.text_bytes_max
    if not isinstance(text, str):
        bytes_max *= _TIMES
    if (size := bytes_of(packed)) > bytes_max:
        what = "prompt" if isinstance(text, str) else "messages" if isinstance(text, Chat) else "texts"
        raise InputError(f"{what}: expected at most {bytes_max} bytes, got {size}")
    return packed


def _conversation(text: Ask) -> bytes:
    if isinstance(text, str):
        return conversation_of(text, None)
    if isinstance(text, Sequence):
        return conversation_of(text[0] if text else "", None)
    return conversation_of(None, text.messages)
