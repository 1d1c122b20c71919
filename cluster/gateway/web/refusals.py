"""Errors as answers: a status, a word for programs, the message, the place."""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
import re
from typing import NamedTuple

import msgspec

from kvatlas.cluster.gateway.web.answers import ErrorAnswer, ErrorTold
from kvatlas.index.errors import (
    InputError,
    KvatlasError,
    NoWorkerError,
    OverloadedError,
    TokenizerError,
    UnsupportedModelError,
)

_MESSAGE_CHARACTERS_MAX = 4096
_RETRY_S_DEFAULT = 1.0
_TIMEOUTS = (TimeoutError, asyncio.TimeoutError, concurrent.futures.TimeoutError)  # three, up to 3.10
_AT = re.compile(r"(?P<message>.*?) - at `(?P<where>[^`]*)`", re.DOTALL)
_PLACE = re.compile(r"(?P<where>[\w$.\[\]'-]{1,200}): ", re.ASCII)


class RefusedError(Exception):
    """A request that is answered with this status; `kind` is the word for programs."""

    def __init__(
        self, status: int, kind: str, message: str, *, where: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.where = where
        self.retry_after_s = retry_after_s


class Refusal(NamedTuple):
    """As it is sent."""

    status: int
    body: bytes
    headers: dict[str, str]


def refused(error: BaseException) -> RefusedError | None:
    """What callers are told of an error. None: nobody has foreseen it, and it is our fault."""
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, _TIMEOUTS):
        return RefusedError(504, "timeout", "expected an answer in time, there is none")
    if isinstance(error, OverloadedError):
        wait_s = _RETRY_S_DEFAULT if error.retry_after_s is None else error.retry_after_s
        return RefusedError(503, "overloaded", str(error), retry_after_s=wait_s)
    status_and_kind = _status_and_kind(error)
    if status_and_kind is None:
        return None
    message, where = _parts(str(error))
    if not where and isinstance(error, msgspec.MsgspecError):
        where = "$"
    return RefusedError(*status_and_kind, _uncapitalized(message), where=where)


def refusal(error: RefusedError) -> Refusal:
    message = str(error)[:_MESSAGE_CHARACTERS_MAX].encode("utf-8", "replace").decode()
    told = ErrorTold(type=error.kind, message=message, where=error.where)
    headers: dict[str, str] = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))  # whole seconds, by HTTP
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status in (408, 413):
        headers["Connection"] = "close"  # the rest of the body is not read
    return Refusal(error.status, msgspec.json.encode(ErrorAnswer(error=told)), headers)


def _status_and_kind(error: BaseException) -> tuple[int, str] | None:
    """By the exception tree of index/errors.py; what is left of it is that a part is not there just now."""
    if isinstance(error, InputError | msgspec.MsgspecError):
        return 400, "invalid_request"
    if isinstance(error, NoWorkerError):
        return 404, "no_worker"
    if isinstance(error, UnsupportedModelError):
        return 422, "unsupported_model"
    if isinstance(error, TokenizerError):
        return 503, "no_tokenizer"
    if isinstance(error, KvatlasError):
        return 503, "unavailable"
    return None


def _uncapitalized(message: str) -> str:
    """As all messages begin; JSON stays JSON."""
    return message if message[1:2].isupper() else message[:1].lower() + message[1:]


def _parts(text: str) -> tuple[str, str]:
    """Message and place, however it is said: `expected ... - at $.a`, or `a.b: expected ...`."""
    if found := _AT.fullmatch(text):
        return found["message"], found["where"]
    if found := _PLACE.match(text):
        return text[found.end() :], found["where"]
    return text, ""
