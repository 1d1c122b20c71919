"""How texts, chats and what is made of them travel in Ray calls: as bytes, which cost least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from kvatlas.index.errors import InputError
from kvatlas.index.keys import Feature
from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.pool.prompt_service import Text
from kvatlas.tokenize.prompt import TokenizedPrompt

PackedText = bytes | str
"""A chat as msgpack, or a text as it is."""
Packed = PackedText | list[str]
"""Also many texts."""
PackedPrompt = tuple[bytes, Sequence[Feature], str]
"""Of a TokenizedPrompt: ids as uint32, features, who computed it."""


def pack(text: Text | Sequence[str]) -> Packed:
    """Raises InputError for a chat with something in it that JSON has not, and for texts that are none."""
    if isinstance(text, str):
        return text
    if not isinstance(text, Chat):
        return _strings(text)
    try:
        return msgspec.msgpack.encode(text, enc_hook=_plain)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"messages: expected what JSON gives, {error!s:.200}") from error


def unpack(packed: Packed) -> Text | list[str]:
    """Raises InputError for bytes that are no chat."""
    if not isinstance(packed, bytes):
        return packed
    try:
        return msgspec.msgpack.decode(packed, type=Chat)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise InputError(f"chat: expected its msgpack, {error}") from error


def bytes_of(packed: Packed) -> int:
    """About what it holds in memory; texts of other than Latin letters hold more."""
    return sum(map(len, packed)) if isinstance(packed, list) else len(packed)


def pack_answer(method: str, answer: Any) -> Any:
    """What a method of PromptService returns, ready to travel."""
    if method in ("encode", "tokenize"):
        return _pack_prompt(answer)
    if method == "encode_many":
        return list(map(_pack_prompt, answer))
    return answer.tobytes() if method == "block_keys" else answer


def unpack_answer(method: str, answer: Any) -> Any:
    """Arrays are read-only, since they lie in what has travelled."""
    if method in ("encode", "tokenize"):
        return _unpack_prompt(answer)
    if method == "encode_many":
        return list(map(_unpack_prompt, answer))
    return np.frombuffer(answer, np.uint64) if method == "block_keys" else answer


def model_of(arguments: Sequence[Any]) -> str:
    """That a method is asked about: its first argument after the text, or among what is asked."""
    model: str = arguments[0]["model"] if isinstance(arguments[0], dict) else arguments[0]
    return model


def _strings(texts: object) -> list[str]:
    if isinstance(texts, bytes) or not isinstance(texts, Sequence):
        raise InputError(f"text: expected a string or a list of strings, got a {type(texts).__name__}")
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"texts[{place}]: expected a string, got a {type(text).__name__}")
    return list(texts)


def _pack_prompt(tokenized: TokenizedPrompt) -> PackedPrompt:
    return tokenized.token_ids.tobytes(), tokenized.features, tokenized.served_by


def _unpack_prompt(packed: PackedPrompt) -> TokenizedPrompt:
    ids, features, served_by = packed
    return TokenizedPrompt(np.frombuffer(ids, np.uint32), tuple(features), served_by)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray)):
        return list(value)
    raise TypeError(f"got a {type(value).__name__}")
