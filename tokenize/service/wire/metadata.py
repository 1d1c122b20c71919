"""What programs of kvatlas tell each other beside the messages; others do not look at it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

ERROR = "kvatlas-error"
"""Behind an answer: the class of the error that it tells of."""
TAKES_CHATS = "kvatlas-chat-json"
"""Behind every answer and refusal, "1": requests may state a chat in `chat_json`."""
NO_OFFSETS = "kvatlas-no-offsets"
"""Before a Tokenize request, "1": answer without `offset_pairs`, which cost a plain encoding."""


def value_of(metadata: Iterable[Any] | None, key: str) -> str:
    """The text of one entry, empty where there is none."""
    for name, value in metadata or ():
        if name == key:
            return value if isinstance(value, str) else ""
    return ""
