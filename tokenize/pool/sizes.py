"""How much a request holds while it waits for its turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kvatlas.tokenize.chat.chat import Chat

_VALUE_BYTES = 64
"""Of a value besides its text, about what Python takes for it."""
_VALUES_MAX = 100_000


def bytes_held(text: str | Chat | Sequence[str]) -> int:
    """About the bytes of a text, of many, or of a chat in all its parts, wherever they stand.

    Takes anything, also what is malformed. Of a chat of very many values, or one that holds itself, it
    looks at as many as make it large.
    """
    if isinstance(text, str):
        return len(text)
    left: list[Any] = [text]
    if isinstance(text, Chat):
        left = [text.messages, text.tools, text.documents, text.chat_template_kwargs, text.chat_template]
    n_bytes = 0
    for _ in range(_VALUES_MAX):
        if not left:
            return n_bytes
        value = left.pop()
        n_bytes += _VALUE_BYTES
        if isinstance(value, (str, bytes)):
            n_bytes += len(value)
        elif isinstance(value, Mapping):
            left.extend(value.values())
        elif isinstance(value, (list, tuple)):
            left.extend(value)
    return n_bytes + _VALUE_BYTES * len(left)
