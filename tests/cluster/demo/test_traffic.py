"""The demo's chats."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np

from kvatlas.cluster.demo.traffic import TrafficConfig, Turn, generate_turns

CONFIG = TrafficConfig(turns=300, open_chats=12, system_prompts=5, system_prompt_tokens=64)


def turns_by_chat() -> dict[int, list[Turn]]:
    chats: dict[int, list[Turn]] = defaultdict(list)
    for turn in generate_turns(CONFIG):
        chats[turn.chat].append(turn)
    return chats


def test_equal_seeds_give_equal_chats_and_others_give_others() -> None:
    def prompts(seed: int) -> list[bytes]:
        config = TrafficConfig(turns=50, seed=seed)
        return [turn.prompt.tobytes() + turn.answer.tobytes() for turn in generate_turns(config)]

    assert prompts(1) == prompts(1)
    assert prompts(1) != prompts(2)


def test_each_turn_goes_on_from_the_answer_before() -> None:
    for turns in turns_by_chat().values():
        assert [turn.number for turn in turns] == list(range(len(turns)))
        for before, after in itertools.pairwise(turns):
            history = np.concatenate((before.prompt, before.answer))
            assert np.array_equal(after.prompt[: len(history)], history)
            assert CONFIG.question_tokens[0] <= len(after.prompt) - len(history) <= CONFIG.question_tokens[1]


def test_chats_share_a_few_system_prompts_and_nothing_else() -> None:
    first_turns = [turns[0].prompt for turns in turns_by_chat().values()]
    size = CONFIG.system_prompt_tokens
    assert len({prompt[:size].tobytes() for prompt in first_turns}) == CONFIG.system_prompts
    assert len({prompt[size : size + 16].tobytes() for prompt in first_turns}) == len(first_turns)


def test_turns_of_a_chat_are_interleaved_with_those_of_others() -> None:
    chats = [turn.chat for turn in generate_turns(CONFIG)]
    assert len(chats) == CONFIG.turns
    assert all(chat != following for chat, following in itertools.pairwise(chats))


def test_token_ids_are_what_an_index_takes() -> None:
    turn = next(generate_turns(CONFIG))
    assert turn.prompt.dtype == np.uint32
    assert int(turn.prompt.max()) < CONFIG.vocabulary
