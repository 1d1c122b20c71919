"""The same chats for whoever serves: a few system prompts, histories that grow, several at once."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.e2e_serve.serve_llm import Reply, ServeLlm

_WORDS = (
    "the",
    "router",
    "asks",
    "atlas",
    "which",
    "server",
    "holds",
    "blocks",
    "of",
    "a",
    "prompt",
    "cache",
)
CHATS = 12
TURNS = 5
AT_ONCE = 4


@dataclass(frozen=True)
class Outcome:
    """Of all chats together."""

    requests: int
    prompt_tokens: int
    cached_tokens: int
    failed: tuple[str, ...]


def run_chats(server: ServeLlm, seed: int) -> Outcome:
    """Every chat's turns one after the other, AT_ONCE chats at a time."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        replies = [
            reply
            for chat in pool.map(lambda number: list(_chat(server, seed, number)), range(CHATS))
            for reply in chat
        ]
    good = [reply for reply in replies if reply.status == 200]
    return Outcome(
        requests=len(replies),
        prompt_tokens=sum(reply.prompt_tokens for reply in good),
        cached_tokens=sum(reply.cached_tokens for reply in good),
        failed=tuple(reply.text for reply in replies if reply.status != 200),
    )


def _chat(server: ServeLlm, seed: int, number: int) -> Iterator[Reply]:
    """What the assistant is taken to have said is the same whoever served."""
    words = random.Random(f"{seed} {number}")
    system = _text(random.Random(f"{seed} system {number % 3}"), 60)
    messages = [{"role": "system", "content": system}]
    for _ in range(TURNS):
        messages.append({"role": "user", "content": _text(words, 40)})
        yield server.chat(messages, max_tokens=4)
        messages.append({"role": "assistant", "content": _text(words, 10)})


def _text(words: random.Random, count: int) -> str:
    return " ".join(words.choice(_WORDS) for _ in range(count))
