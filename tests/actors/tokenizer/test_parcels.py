"""Chats and answers survive travelling; what cannot travel says so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.actors.tokenizer.parcels import bytes_of, pack, pack_answer, unpack, unpack_answer
from kvatlas.index.errors import InputError
from kvatlas.tokenize.chat.chat import Chat, Media
from kvatlas.tokenize.prompt import TokenizedPrompt

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=4)


@pytest.mark.slow
@given(
    messages=st.lists(OBJECTS, max_size=4),
    tools=st.none() | st.lists(OBJECTS, max_size=2),
    arguments=OBJECTS,
    flags=st.tuples(st.booleans(), st.booleans()),
)
def test_a_chat_arrives_as_it_was(
    messages: list[dict[str, Any]],
    tools: list[dict[str, Any]] | None,
    arguments: dict[str, Any],
    flags: tuple[bool, bool],
) -> None:
    chat = Chat(
        messages=messages,
        tools=tools,
        chat_template_kwargs=arguments,
        add_generation_prompt=flags[0],
        continue_final_message=flags[1],
        media=(Media(identifier="i", n_tokens=3),),
    )
    arrived = unpack(pack(chat))
    assert isinstance(arrived, Chat)
    assert (list(arrived.messages), arrived.tools) == (messages, tools)
    assert arrived.chat_template_kwargs == arguments
    assert (arrived.add_generation_prompt, arrived.continue_final_message) == flags
    assert [(one.identifier, one.n_tokens) for one in arrived.media] == [("i", 3)]


class Plain(Mapping[str, Any]):
    """A mapping that is no dict."""

    def __getitem__(self, name: str) -> Any:
        return {"role": "user", "content": "x"}[name]

    def __iter__(self) -> Iterator[str]:
        return iter(("role", "content"))

    def __len__(self) -> int:
        return 2


def test_other_mappings_and_sequences_travel_as_dicts_and_lists() -> None:
    chat = Chat(messages=(Plain(), MappingProxyType({"role": "tool", "content": ("a", range(2))})))
    arrived = unpack(pack(chat))
    assert isinstance(arrived, Chat)
    assert list(arrived.messages) == [
        {"role": "user", "content": "x"},
        {"role": "tool", "content": ["a", [0, 1]]},
    ]


@pytest.mark.parametrize("value", [object(), 1 << 70, "\ud800", 1j])
def test_what_json_has_not_is_refused(value: object) -> None:
    with pytest.raises(InputError, match="messages: expected what JSON gives"):
        pack(Chat(messages=[{"role": "user", "content": value}]))


@pytest.mark.parametrize("packed", [b"", b"\xc1", b"\x80", b"\xff" * 40])
def test_bytes_that_are_no_chat_are_refused(packed: bytes) -> None:
    with pytest.raises(InputError, match="chat: expected its msgpack"):
        unpack(packed)


def test_texts_travel_as_they_are_and_have_a_size() -> None:
    assert unpack(pack("a\ud800")) == "a\ud800"
    assert unpack(pack(("a", "b"))) == ["a", "b"]
    assert [bytes_of(pack(text)) for text in ("", "abc", ("ab", "c"))] == [0, 3, 3]


def test_answers_arrive_as_they_were() -> None:
    prompt = TokenizedPrompt(np.array([1, 2**32 - 1], np.uint32), (("image", 1, 2),), "files:/x")
    for method, answer in (("encode", prompt), ("tokenize", prompt)):
        arrived = unpack_answer(method, pack_answer(method, answer))
        assert arrived.token_ids.dtype == np.uint32
        assert (arrived.token_ids.tolist(), *arrived[1:]) == ([1, 2**32 - 1], *prompt[1:])
    (only,) = unpack_answer("encode_many", pack_answer("encode_many", [prompt]))
    assert only.token_ids.tolist() == [1, 2**32 - 1]
    keys = np.array([5, 2**64 - 1], np.uint64)
    assert unpack_answer("block_keys", pack_answer("block_keys", keys)).tolist() == keys.tolist()
    assert pack_answer("score", "anything") == unpack_answer("score", "anything") == "anything"
