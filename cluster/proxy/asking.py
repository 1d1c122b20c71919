"""From the body of an OpenAI request to what a choice wants to know of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from kvatlas.index.errors import InputError
from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.chat.request import chat_of

Kind = Literal["chat", "completion", "other"]
KINDS: Mapping[str, Kind] = {"/v1/chat/completions": "chat", "/v1/completions": "completion"}
"""By path; all others are `other`: nothing is known of their prompts."""

# One that nobody closes goes to the end: were it no match, each quote in it would be tried anew.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
_NAME_CHARACTERS_MAX = 1024
_TOKENS_MAX = 1 << 24


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One request, as far as a choice needs it."""

    model: str | None
    """None: it names none, as one may where there is one model only."""
    token_ids: list[int] | None = None
    prompt: str | None = None
    chat: Chat | None = None
    cache_salt: str | None = None
    session: str = ""
    output_tokens: int | None = None
    """At most. None: it sets no limit."""
    streams: bool = False
    wants_usage: bool | None = None
    """Of a stream. None: it does not say, so usage can be asked for and kept from it."""
    fields: Mapping[str, Any] = {}
    """The whole body, where it was decoded."""


class _Completion(msgspec.Struct, frozen=True):
    """What is read of a body; the rest is passed over."""

    model: Any = None
    prompt: Any = None
    stream: Any = None
    stream_options: Any = None
    max_tokens: Any = None
    cache_salt: Any = None
    prompt_cache_key: Any = None


def read(kind: Kind, body: bytes, json_parts_max: int) -> Asked:
    """What a body asks. Raises InputError for what is no JSON object, with the place of a field that does
    not fit; what only the pod can judge is left to it."""
    check_parts(body, json_parts_max)
    if kind == "completion":
        return _completion(decode(body, _Completion))
    fields = decode(body, dict[str, Any])
    chat = chat_of(fields) if kind == "chat" else None
    return Asked(
        model=_text(fields, "model"),
        chat=chat,
        cache_salt=_text(fields, "cache_salt") or None,
        session=_text(fields, "prompt_cache_key") or "",
        output_tokens=_tokens(fields.get("max_completion_tokens") or fields.get("max_tokens")),
        streams=fields.get("stream") is True,
        wants_usage=_wants_usage(fields.get("stream_options")),
        fields=fields,
    )


def _completion(body: _Completion) -> Asked:
    fields = msgspec.structs.asdict(body)
    model = _text(fields, "model")
    prompt = _first_of_several(body.prompt)
    if not isinstance(prompt, (str, list)) or not prompt:
        raise InputError(f"$.prompt: expected a text or token ids, got {_shown(body.prompt)}")
    return Asked(
        model=model,
        token_ids=prompt if isinstance(prompt, list) else None,
        prompt=prompt if isinstance(prompt, str) else None,
        cache_salt=_text(fields, "cache_salt") or None,
        session=_text(fields, "prompt_cache_key") or "",
        output_tokens=_tokens(body.max_tokens),
        streams=body.stream is True,
        wants_usage=_wants_usage(body.stream_options),
    )


def _first_of_several(prompt: Any) -> Any:
    """The prompt that is chosen for: what several share, the first has too."""
    if not isinstance(prompt, list) or not prompt or not isinstance(prompt[0], (str, list)):
        return prompt
    kind = type(prompt[0])
    for place, one in enumerate(prompt):
        if type(one) is not kind:
            raise InputError(f"$.prompt[{place}]: expected a {kind.__name__} as the first, got {_shown(one)}")
    return prompt[0]


def with_usage(body: bytes, asked: Asked) -> bytes:
    """The body of a stream, asking for usage at its end. Only where `asked.wants_usage` is None."""
    if b'"stream_options"' not in body:
        start = body.index(b"{") + 1
        return b'%b"stream_options":{"include_usage":true},%b' % (body[:start], body[start:])
    fields = asked.fields or decode(body, dict[str, Any])
    options = fields.get("stream_options") or {}
    if not isinstance(options, dict):
        return body  # the pod's to refuse
    options = {**options, "include_usage": True}
    return msgspec.json.encode({**fields, "stream_options": options})


def decode(body: bytes, kind: Any) -> Any:
    """Raises InputError where it is not JSON of that kind."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise InputError(f"$: expected a JSON object: {error}") from error
    except RecursionError as error:
        raise InputError("$: expected JSON, got values nested too deeply") from error
    except UnicodeDecodeError as error:
        raise InputError(f"$: expected UTF-8: {error.reason}") from error


def check_parts(body: bytes, most: int) -> None:
    """Raises InputError for a body that opens more brackets: an empty list takes thirty times its text."""
    if body.count(b"[") + body.count(b"{") <= most:
        return
    bare = _STRING.sub(b"", body)
    if bare.count(b"[") + bare.count(b"{") > most:
        raise InputError(f"$: expected at most {most} objects and lists, got more")


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if type(value) is not str or len(value) > _NAME_CHARACTERS_MAX:
        raise InputError(
            f"$.{name}: expected a text of at most {_NAME_CHARACTERS_MAX} characters, got {_shown(value)}"
        )
    return value


def _tokens(value: object) -> int | None:
    """What does not fit is the pod's to refuse."""
    return value if type(value) is int and 0 <= value <= _TOKENS_MAX else None


def _wants_usage(options: object) -> bool | None:
    wanted = options.get("include_usage") if isinstance(options, dict) else None
    return wanted if isinstance(wanted, bool) else None


def _shown(value: object) -> str:
    return f"{type(value).__name__}" if isinstance(value, (dict, list, str)) else repr(value)[:80]
