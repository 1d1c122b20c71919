"""One question that a tokenizer and a model server must answer alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from kvatlas.tokenize.backend import ModelTokenizer
from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.prompt import TokenizedPrompt


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A plain text or a chat."""

    name: str
    """What it tries, in a few words."""
    text: str = ""
    """Of a plain completion; of no meaning beside a chat."""
    add_special_tokens: bool = True
    chat: Chat | None = None

    def ask(self, tokenizer: ModelTokenizer) -> TokenizedPrompt:
        """Raises what the tokenizer raises."""
        if self.chat is not None:
            return tokenizer.encode_chat(self.chat)
        return tokenizer.encode(self.text, add_special_tokens=self.add_special_tokens)


Message = Mapping[str, Any]


def plain(name: str, text: str, *, add_special_tokens: bool = True) -> Case:
    """A plain completion."""
    return Case(name=f"text: {name}", text=text, add_special_tokens=add_special_tokens)


def chatting(name: str, messages: Sequence[Message], **fields: Any) -> Case:
    """A chat; `fields` as those of `Chat`."""
    return Case(name=f"chat: {name}", chat=Chat(messages=messages, **fields))


def said(role: str, content: object = "", **fields: Any) -> Message:
    """A message."""
    return {"role": role, "content": content, **fields}


def user(content: object) -> Message:
    """What a user says."""
    return said("user", content)


def text_part(text: str, kind: str = "text") -> Mapping[str, str]:
    """A part of a content."""
    return {"type": kind, "text": text}
