"""What a call of a deployment asks for: its prompt and model, found in the arguments."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np

from kvatlas.index.errors import ConfigError
from kvatlas.index.keys import TokenIds


class Extracted(NamedTuple):
    """Of one call. At most one of `token_ids`, `prompt` and `messages`; else `why` says why none."""

    token_ids: TokenIds | None = None
    prompt: str | None = None
    messages: Any = None
    """A chat's messages, or the whole body of its request."""
    model: str = ""
    lora: str | None = None
    cache_salt: str | None = None
    session: str = ""
    output_tokens: int | None = None
    why: str = ""


Extractor = Callable[[Sequence[Any], Mapping[str, Any]], Extracted]
"""From the positional and the keyword arguments of a call. It runs on the event loop: it must be quick,
wait for nothing and change nothing."""


class ArgumentNames(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where things stand: names of keyword arguments, and of fields of a body. The first that is there."""

    token_ids: tuple[str, ...] = ("token_ids", "prompt_token_ids", "request_token_ids")
    prompt: tuple[str, ...] = ("prompt",)
    """A text; a list of ints counts as token ids."""
    messages: tuple[str, ...] = ("messages",)
    model: tuple[str, ...] = ("model",)
    lora: tuple[str, ...] = ("lora", "lora_name")
    cache_salt: tuple[str, ...] = ("cache_salt",)
    session: tuple[str, ...] = ("session_id",)
    output_tokens: tuple[str, ...] = ("max_completion_tokens", "max_tokens")


class NamedArguments:
    """Looks in the keyword arguments, then in each positional one that is a body.

    A body is a mapping, or an object with fields (pydantic, msgspec, dataclass). A first argument that
    is itself a text, token ids or a list of messages is the prompt. The body of an HTTP request has
    not been read when Serve routes it: such calls say so in `why`.
    """

    def __init__(self, names: ArgumentNames | None = None) -> None:
        self._names = names or ArgumentNames()

    def __call__(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Extracted:
        bodies = [kwargs] if kwargs else []
        for argument in args:
            if _is_body(argument):
                bodies.append(argument)
        names = self._names
        ids, prompt, messages = self._prompt(args, bodies)
        model, lora, salt = (
            _text(_first(bodies, fields)) for fields in (names.model, names.lora, names.cache_salt)
        )
        output = _first(bodies, names.output_tokens)
        return Extracted(
            token_ids=ids,
            prompt=prompt,
            messages=messages,
            model=model or "",
            lora=lora,
            cache_salt=salt,
            session=_text(_first(bodies, names.session)) or "",
            output_tokens=output if isinstance(output, int) and output > 0 else None,
            why=_why(args) if ids is None and prompt is None and messages is None else "",
        )

    def _prompt(self, args: Sequence[Any], bodies: Sequence[Any]) -> tuple[TokenIds | None, str | None, Any]:
        names = self._names
        ids = _first(bodies, names.token_ids)
        if _are_ids(ids):
            return ids, None, None
        chat = _first(bodies, names.messages)
        if chat:
            return None, None, _chat(bodies, names.messages)
        prompt = _first(bodies, names.prompt)
        if prompt is None and args:
            prompt = args[0]
            if isinstance(prompt, (list, tuple)) and prompt and isinstance(prompt[0], Mapping):
                return None, None, prompt
        if isinstance(prompt, str):
            return None, prompt or None, None
        return (prompt, None, None) if _are_ids(prompt) else (None, None, None)


def load_extractor(path: str, names: ArgumentNames) -> Extractor:
    """`package.module:function` of one's own; empty: by names. Raises ConfigError where there is none."""
    if not path:
        return NamedArguments(names)
    module, _, attribute = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"extractor: expected package.module:function, got {path!r}: {error}") from error
    if not callable(found):
        raise ConfigError(f"extractor: expected a function, got {path!r}: {found!r:.200}")
    extractor: Any = found() if isinstance(found, type) else found
    return cast(Extractor, extractor)


def _first(bodies: Sequence[Any], fields: Sequence[str]) -> Any:
    for body in bodies:
        is_mapping = type(body) is dict or isinstance(body, Mapping)  # the first costs nothing
        for field in fields:
            value = body.get(field) if is_mapping else getattr(body, field, None)
            if value is not None:
                return value
    return None


def _chat(bodies: Sequence[Any], fields: Sequence[str]) -> Any:
    """The whole body where it is a request's: tools and template arguments count as well."""
    for body in bodies:
        if not isinstance(body, Mapping):
            dump = getattr(body, "model_dump", None)
            if dump is None:
                continue
            body = dump(exclude_none=True)
        if body.get("messages"):
            return body
    return _first(bodies, fields)


def _is_body(argument: Any) -> bool:
    if isinstance(argument, (str, bytes, bytearray, memoryview, list, tuple, int, float, np.ndarray)):
        return False
    return isinstance(argument, Mapping) or (argument is not None and not _is_http(argument))


def _is_http(argument: Any) -> bool:
    """Starlette's request, or what Serve's proxy hands on in its place."""
    return hasattr(argument, "asgi_scope") or (hasattr(argument, "scope") and hasattr(argument, "receive"))


def _are_ids(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim == 1 and value.dtype.kind in "iu" and len(value) > 0
    if isinstance(value, (bytes, bytearray, memoryview)):
        return len(value) > 0
    return isinstance(value, (list, tuple)) and len(value) > 0 and type(value[0]) is int


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _why(args: Sequence[Any]) -> str:
    if any(_is_http(argument) for argument in args):
        return "the body of an HTTP request is not read where it is routed"
    return "no token_ids, prompt or messages among the arguments"
