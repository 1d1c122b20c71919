"""Prompts as callers give them: token ids, a text or a chat; how many tokens; many in one buffer."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from kvatlas.index.errors import InputError
from kvatlas.index.keys import Feature, TokenIds


class ChatLike(Protocol):
    """A chat with all that its request says, such as `kvatlas.Chat`."""

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]: ...


Messages = Sequence[Mapping[str, Any]] | ChatLike
"""A chat: its messages alone, or with tools, template arguments and the like."""


class Tokenized(Protocol):
    """A prompt as its model server would see it."""

    @property
    def token_ids(self) -> npt.NDArray[np.uint32]: ...
    @property
    def features(self) -> Sequence[Feature]: ...


class Tokenizing(Protocol):
    """Turns texts and chats into token ids, such as `kvatlas.Tokenizers`."""

    def tokenize(
        self, model: str, *, prompt: str | None = None, messages: Messages | None = None
    ) -> Tokenized: ...


def ids_of(
    tokenizers: Tokenizing | None,
    model: str,
    token_ids: TokenIds | None,
    prompt: str | None,
    messages: Messages | None,
    features: Iterable[Feature] | None,
) -> tuple[TokenIds, Iterable[Feature] | None]:
    """The ids of a prompt however it was given, with its multimodal items: the caller's, where given.

    Raises InputError unless exactly one of `token_ids`, `prompt`, `messages` is given, and where a text
    comes and there are no tokenizers.
    """
    given = check_one(token_ids, prompt, messages)
    if token_ids is not None:
        return token_ids, features
    if tokenizers is None:
        raise InputError(
            f"{given}: expected token_ids, or tokenizers to make them with "
            "(`Atlas(config, tokenizers=kvatlas.Tokenizers(...))`)"
        )
    tokenized = tokenizers.tokenize(model, prompt=prompt, messages=messages)
    return tokenized.token_ids, tokenized.features if features is None else features


def check_one(token_ids: TokenIds | None, prompt: str | None, messages: Messages | None) -> str:
    """The name of the one that is given. Raises InputError when none is, or several are."""
    asked = {"token_ids": token_ids, "prompt": prompt, "messages": messages}
    given = [name for name, value in asked.items() if value is not None]
    if len(given) != 1:
        raise InputError(
            f"expected one of token_ids, prompt and messages, got {' and '.join(given) or 'none'}"
        )
    return given[0]


def count_tokens(token_ids: TokenIds) -> int:
    """Tokens of a prompt; bytes and views of bytes hold four bytes a token."""
    if isinstance(token_ids, (bytes, bytearray, memoryview)):
        view = memoryview(token_ids)
        return view.nbytes // 4 if view.itemsize == 1 else len(view)
    try:
        return len(token_ids)
    except TypeError as error:  # such as a generator, a number, an array without a dimension
        raise InputError(f"token_ids: expected a sequence, got {_kind(token_ids)}") from error


def split_prompts(
    prompts: Sequence[TokenIds] | TokenIds, offsets: Sequence[int] | npt.NDArray[np.integer[Any]] | None
) -> Sequence[TokenIds]:
    """The prompts, each by itself; those of a flat buffer are views into it.

    Raises InputError unless `offsets` [n + 1] rise from 0 or more to at most the buffer's tokens, and
    when a flat buffer comes without them.
    """
    if offsets is None:
        if isinstance(prompts, (list, tuple)) and not (prompts and isinstance(prompts[0], int)):
            return cast(Sequence[TokenIds], prompts)
        raise InputError(
            f"prompts: expected a list of prompts, or offsets beside a buffer, got {_kind(prompts)}"
        )
    tokens = _flat(prompts)
    bounds = np.asarray(offsets)
    if bounds.ndim != 1 or len(bounds) == 0 or bounds.dtype.kind not in "iu":
        raise InputError(f"offsets: expected integers [n_prompts + 1], got {_kind(offsets)}")
    ends = bounds.astype(np.int64)
    if ends[0] < 0 or ends[-1] > len(tokens) or (np.diff(ends) < 0).any():
        raise InputError(
            f"offsets: expected them to rise from 0 to at most {len(tokens)} tokens, "
            f"got {ends[0]} to {ends[-1]}" + (", falling" if (np.diff(ends) < 0).any() else "")
        )
    at = ends.tolist()
    return [tokens[begin:end] for begin, end in itertools.pairwise(at)]


def _flat(prompts: object) -> npt.NDArray[np.uint32]:
    if isinstance(prompts, np.ndarray) and prompts.ndim == 1 and prompts.dtype == np.uint32:
        return prompts
    if isinstance(prompts, (bytes, bytearray, memoryview)):
        raw = memoryview(prompts)
        if raw.c_contiguous and raw.nbytes % 4 == 0:
            return np.frombuffer(raw, np.uint32)
    raise InputError(f"prompts: expected one flat buffer of uint32 beside offsets, got {_kind(prompts)}")


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} {list(value.shape)}"
    return (
        f"a {type(value).__name__} of {len(value)}"
        if isinstance(value, (bytes, list, tuple))
        else repr(value)[:80]
    )
