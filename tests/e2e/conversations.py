"""Prompts as chats make them: a few system prompts, histories that grow by what was generated."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.e2e.vllm_server import BLOCK_SIZE_TOKENS, VOCABULARY

_FIRST_WORD = 3  # below are the special tokens
_PROMPT_TOKENS_MAX = 900


@dataclass
class Conversation:
    system: Sequence[int]
    cache_salt: str | None
    history: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Question:
    conversation: Conversation
    prompt: list[int]
    max_tokens: int

    @property
    def cache_salt(self) -> str | None:
        return self.conversation.cache_salt

    def answered(self, token_ids: Sequence[int]) -> None:
        """The conversation's next prompt goes on from here."""
        self.conversation.history[:] = [*self.prompt, *token_ids]


def fresh_prompt(seed: int, count: int) -> list[int]:
    """`count` token ids; prompts of different seeds differ from the first block on."""
    return _words(random.Random(f"prompt {seed}"), count)


def questions(seed: int, count: int, *, conversations: int = 8) -> Iterator[Question]:
    """`count` turns of some conversations; every fourth conversation has a cache salt.

    All seeds share three system prompts. A third of the prompts end exactly at a block's end, and
    none is shorter than two blocks: when a prompt of one block is computed again, the server
    announces the new copy just as it reports a block already held, and no atlas can tell.
    """
    source = random.Random(seed)
    chats = [
        Conversation(_system_prompt(number % 3), "tenant" if number % 4 == 3 else None)
        for number in range(conversations)
    ]
    for _ in range(count):
        chat = source.choice(chats)
        prompt = [*(chat.history or chat.system), *_words(source, source.randrange(1, 120))]
        if source.random() < 1 / 3:
            prompt = prompt[: len(prompt) // BLOCK_SIZE_TOKENS * BLOCK_SIZE_TOKENS]
        if len(prompt) > _PROMPT_TOKENS_MAX:
            prompt = [*chat.system, *_words(source, 40)]
        yield Question(chat, prompt, max_tokens=source.choice((1, 5, 40, 100)))


def _system_prompt(number: int) -> list[int]:
    """2, 4 or 6 full blocks and a bit."""
    return _words(random.Random(f"system {number}"), 2 * (number + 1) * BLOCK_SIZE_TOKENS + 7)


def _words(source: random.Random, count: int) -> list[int]:
    return [source.randrange(_FIRST_WORD, VOCABULARY) for _ in range(count)]
