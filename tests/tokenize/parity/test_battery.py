"""The battery itself: nothing twice, nothing left out."""

from __future__ import annotations

import msgspec
import pytest

from kvatlas.tokenize.parity.battery import battery
from kvatlas.tokenize.parity.case import Case

CASES = battery()


def _has(case: Case, name: str) -> bool:
    chat = case.chat
    return chat is not None and any(name in message for message in chat.messages)


def test_every_case_has_a_name_and_a_content_of_its_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES) > 140
    contents = [msgspec.json.encode(msgspec.structs.replace(case, name="")) for case in CASES]
    assert len(set(contents)) == len(contents)


def test_it_is_the_same_each_time() -> None:
    assert battery() == CASES
    assert [case.name for case in battery(["<x>"])] == [case.name for case in CASES]


def test_special_tokens_of_the_model_come_into_texts_and_chats() -> None:
    holding = [case for case in battery(["<|mine|>"]) if "<|mine|>" in msgspec.json.encode(case).decode()]
    assert {case.chat is None for case in holding} == {True, False}


@pytest.mark.parametrize("field", ["name", "tool_calls", "tool_call_id", "reasoning", "reasoning_content"])
def test_messages_have_every_field_that_templates_read(field: str) -> None:
    assert sum(_has(case, field) for case in CASES) >= 2


def test_chats_use_every_field_that_decides_ids() -> None:
    chats = [case.chat for case in CASES if case.chat is not None]
    used = {name for chat in chats for name, value in msgspec.structs.asdict(chat).items() if value}
    assert used == {
        *("messages", "tools", "documents", "add_generation_prompt", "continue_final_message"),
        *("add_special_tokens", "chat_template_kwargs", "reasoning_effort"),
    }, "a request's own template and media are for servers that allow them"
    roles = {message["role"] for chat in chats for message in chat.messages}
    assert roles > {"system", "developer", "user", "assistant", "tool"}
