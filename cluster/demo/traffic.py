"""Multi-turn chats as token ids, the same ones for the same seed, whoever serves them."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

TokenIds = NDArray[np.uint32]


class TrafficConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the chats look like; lengths are in tokens, ranges include both ends."""

    turns: int = 1500
    """Requests in all."""
    open_chats: int = 96
    """Chats under way at once: their turns interleave."""
    turns_per_chat: tuple[int, int] = (3, 8)
    system_prompts: int = 24
    """Distinct system prompts; each chat starts with one of them, all equally often."""
    system_prompt_tokens: int = 1024
    question_tokens: tuple[int, int] = (40, 200)
    answer_tokens: tuple[int, int] = (60, 300)
    vocabulary: int = 128_000
    seed: int = 1


class Turn(msgspec.Struct, frozen=True):
    """One request: everything said in the chat so far, and the answer that it will get."""

    chat: int
    number: int
    """0 for the first turn of its chat."""
    prompt: TokenIds
    """[n_tokens]: system prompt, questions and answers so far, the new question."""
    answer: TokenIds
    """[n_answer_tokens]"""


class _Chat:
    def __init__(self, traffic: _Traffic, number: int) -> None:
        self.number = number
        self.turns_left = traffic.draw(traffic.config.turns_per_chat)
        self.turns_taken = 0
        system = int(traffic.rng.integers(len(traffic.system_prompts)))
        self.history = traffic.system_prompts[system]

    def next_turn(self, traffic: _Traffic) -> Turn:
        question = traffic.tokens(traffic.draw(traffic.config.question_tokens))
        prompt = np.concatenate((self.history, question))
        answer = traffic.tokens(traffic.draw(traffic.config.answer_tokens))
        turn = Turn(self.number, self.turns_taken, prompt, answer)
        self.history = np.concatenate((prompt, answer))
        self.turns_taken += 1
        self.turns_left -= 1
        return turn


class _Traffic:
    def __init__(self, config: TrafficConfig) -> None:
        self.config = config
        self.rng = np.random.default_rng(config.seed)
        self.system_prompts = [self.tokens(config.system_prompt_tokens) for _ in range(config.system_prompts)]

    def draw(self, bounds: tuple[int, int]) -> int:
        return int(self.rng.integers(bounds[0], bounds[1] + 1))

    def tokens(self, count: int) -> TokenIds:
        return self.rng.integers(0, self.config.vocabulary, count, dtype=np.uint32)


def generate_turns(config: TrafficConfig) -> Iterator[Turn]:
    """The turns of all chats in the order in which they arrive.

    A chat's next turn comes half to one and a half rounds of all open chats later (its user reads
    and types); a chat that ends is replaced at once, so the number of open chats stays the same.
    """
    traffic = _Traffic(config)
    waiting: list[tuple[float, int, _Chat]] = []
    for number in range(config.open_chats):
        heapq.heappush(waiting, (float(traffic.rng.random()), number, _Chat(traffic, number)))
    chats_started = config.open_chats
    for _ in range(config.turns):
        due, number, chat = heapq.heappop(waiting)
        yield chat.next_turn(traffic)
        if chat.turns_left == 0:
            number, chat = chats_started, _Chat(traffic, chats_started)
            chats_started += 1
        heapq.heappush(waiting, (due + 0.5 + float(traffic.rng.random()), number, chat))
