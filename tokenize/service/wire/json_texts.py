"""JSON inside of messages."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from kvatlas.index.errors import InputError

T = TypeVar("T")


def from_json(text: str, kind: type[T], where: str) -> T:
    """The value of a JSON text, checked to be a `kind`. Raises InputError that begins with `where`."""
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise InputError(f"{where}: {_reason(error)}") from error


def to_json(value: Any, where: str) -> str:
    """Raises InputError that begins with `where` for what JSON has no form for."""
    try:
        return msgspec.json.encode(value).decode()
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"{where}: expected what JSON can say, {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "got values nested too deeply"
    text = str(error)
    return text[:1].lower() + text[1:]
