"""Texts and chats to tokenize, each new: cut from the project's documents and code, the same in every run.

A chat of 16 turns has about 8 000 tokens of Qwen3: a system prompt of 3 600, questions of 65, replies of 210.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
FOLDERS = ("actors", "benchmarks", "cluster", "docs", "examples", "index", "ingest", "tests", "tokenize")
KINDS = (".md", ".py", ".cpp", ".hpp")
TURNS = 16
SYSTEM_CHARS, QUESTION_CHARS, REPLY_CHARS = 16_000, 300, 900
LONG_CHARS = 1_000
"""Of a long question: as if all messages of the chat were of one length."""
TEXT_CHARS = 33_000
"""Of a text of about 8 000 tokens."""

Message = dict[str, Any]


class Turn(NamedTuple):
    """A chat that ends with a turn that nobody has seen."""

    messages: list[Message]
    new: str
    """All that is new in it."""


class Texts:
    """Hands out stretches of the project's files one after the other, none of them twice."""

    def __init__(self) -> None:
        paths = sorted(
            path
            for folder in FOLDERS
            for path in (HERE.parent / folder).rglob("*")
            if path.suffix in KINDS and path.is_file()
        )
        self._all = "\n".join(path.read_text() for path in paths)
        self._next = 0
        self._given: set[int] = set()

    def take(self, n_chars: int) -> str:
        """At most so many characters, up to the end of a word. Raises EOFError when all is given out."""
        while True:
            limit = self._next + n_chars
            if limit > len(self._all):
                raise EOFError(f"expected more text than the {len(self._all)} characters of the project")
            end = max(self._all.rfind(" ", self._next, limit), self._all.rfind("\n", self._next, limit))
            text = self._all[self._next : end if end > self._next else limit]
            self._next += len(text)
            if text.strip() and hash(text.strip()) not in self._given:
                self._given.add(hash(text.strip()))
                return text.strip()


class Conversations:
    """Chats of 15 turns, with four system prompts among them, and what may come as their 16th."""

    def __init__(self, texts: Texts, count: int) -> None:
        self._texts = texts
        systems = [texts.take(SYSTEM_CHARS) for _ in range(min(4, count))]
        self.begun = [self._begin(systems[i % len(systems)]) for i in range(count)]
        """Each ends with a reply."""

    def _begin(self, system: str) -> list[Message]:
        messages = [said("system", system)]
        for _ in range(TURNS - 1):
            messages.append(said("user", self._texts.take(QUESTION_CHARS)))
            messages.append(said("assistant", self._texts.take(REPLY_CHARS)))
        return messages

    def asked(self) -> Iterator[list[Message]]:
        """Each with a question behind it: for who shall remember all that is there."""
        for messages in self.begun:
            yield [*messages, said("user", self._texts.take(QUESTION_CHARS))]

    def questions(self, n_chars: int = QUESTION_CHARS) -> Iterator[Turn]:
        """One chat after the other, endlessly: a new question, all before it has been seen."""
        for messages in itertools.cycle(self.begun):
            question = self._texts.take(n_chars)
            yield Turn([*messages, said("user", question)], question)

    def turns(self) -> Iterator[Turn]:
        """The same, but the reply before the question is new as well: the server has just given it."""
        for messages in itertools.cycle(self.begun):
            reply, question = self._texts.take(REPLY_CHARS), self._texts.take(QUESTION_CHARS)
            new = [said("assistant", reply), said("user", question)]
            yield Turn([*messages[:-1], *new], reply + question)


def said(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def tokenizer_folder(name: str) -> Path | None:
    """Of a real tokenizer, below the folder that KVATLAS_SHARED names. None, said in a line: not there."""
    shared = os.environ.get("KVATLAS_SHARED")
    folder = Path(shared or ".") / "tokenizers" / name
    if shared and (folder / "tokenizer.json").is_file():
        return folder
    print(f"{name}: left out, {'no ' + str(folder) if shared else 'KVATLAS_SHARED is not set'}")
    return None
