"""Where in a chat a lone surrogate stands: half a character, which no tokenizer can encode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvatlas.index.errors import InputError, quoted
from kvatlas.tokenize.chat.chat import Chat


def name_surrogate(chat: Chat) -> InputError | None:
    """An error that names the place of a chat's first lone surrogate; None where it has none.

    For a chat that could be rendered and not encoded: good chats need not pay for a search.
    """
    for field in ("messages", "tools", "documents", "chat_template_kwargs", "chat_template"):
        place = _place(getattr(chat, field), f"$.{field}")
        if place is not None:
            return InputError(f"{place}: expected Unicode text, got a lone surrogate")
    return None


def _place(value: Any, path: str) -> str | None:
    if isinstance(value, str):
        character = _first_in(value)
        return None if character is None else f"{path}[{character}]"
    if isinstance(value, Mapping):
        if any(_first_in(str(key)) is not None for key in value):
            return path
        steps = [(f".{quoted(key, 40)}", item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        steps = [(f"[{index}]", item) for index, item in enumerate(value)]
    else:
        return None
    found = (_place(item, path + step) for step, item in steps)
    return next((place for place in found if place is not None), None)


def _first_in(text: str) -> int | None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None
