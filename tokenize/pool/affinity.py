"""Which member of a pool a conversation goes to: the same one each turn, so that its memo knows it.

Rendezvous hashing: each member draws a number for the conversation, the highest draw is its place. When
a member comes or goes, only the conversations that it wins or had move.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_END_CHARACTERS = 512
"""Of a long text its begin, its end and its length tell it from others."""
_PROMPT_CHARACTERS = 2048
_MESSAGES_MAX = 8
_PARTS_MAX = 16
_DIGEST_BYTES = 16


def conversation_of(prompt: str | None, messages: Sequence[Mapping[str, Any]] | None) -> bytes:
    """What stays the same from turn to turn: the messages up to the first of the user, or how a prompt
    begins. Does not judge what is malformed: that gets some place, and its error there."""
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    if not isinstance(messages, (list, tuple)):
        digest.update((prompt or "")[:_PROMPT_CHARACTERS].encode("utf-8", "surrogatepass"))
        return digest.digest()
    for message in messages[:_MESSAGES_MAX]:
        is_mapping = isinstance(message, Mapping)
        digest.update(_told(message.get("content") if is_mapping else message))
        if is_mapping and message.get("role") == "user":
            break
    return digest.digest()


def _told(content: object) -> bytes:
    """Of content in parts only the texts: images are long, and come with some."""
    if isinstance(content, list):
        content = "\0".join(_text_of(part) for part in content[:_PARTS_MAX])
    if not isinstance(content, str):
        content = type(content).__name__
    ends = content
    if len(content) > 2 * _END_CHARACTERS:
        ends = content[:_END_CHARACTERS] + content[-_END_CHARACTERS:]
    return f"{len(content)}:{ends}".encode("utf-8", "surrogatepass")


def _text_of(part: object) -> str:
    text = part.get("text") if isinstance(part, Mapping) else part
    return text if isinstance(text, str) else ""


def ranked(conversation: bytes, numbers: Iterable[int]) -> list[int]:
    """The members, best place first."""

    def draw(number: int) -> bytes:
        return hashlib.blake2b(conversation, digest_size=8, key=number.to_bytes(8, "little")).digest()

    return sorted(numbers, key=draw, reverse=True)
