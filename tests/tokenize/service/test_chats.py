"""Chats into messages and out of them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.index.errors import InputError
from kvatlas.tokenize.chat.chat import Chat, Media
from kvatlas.tokenize.service.chat_requests import chat_of_completion, chat_of_template
from kvatlas.tokenize.service.wire.chat_messages import completion_request, template_request
from kvatlas.tokenize.service.wire.schema import message_class

texts = st.text(st.characters(codec="utf-8"), max_size=12)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**53), 2**53), texts, st.floats(-1e6, 1e6).filter(bool)
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
objects = st.dictionaries(texts, json_values, max_size=3)
parts = st.one_of(
    st.builds(lambda t: {"type": "text", "text": t}, texts),
    st.builds(lambda u: {"type": "image_url", "image_url": {"url": u}}, texts),
)
plain_messages = st.fixed_dictionaries(
    {"role": texts, "content": st.one_of(texts, st.lists(parts, min_size=1, max_size=3))},
    optional={"tool_calls": st.lists(objects, min_size=1, max_size=2)},
)
plain_chats = st.builds(
    Chat,
    messages=st.lists(plain_messages, max_size=3),
    tools=st.one_of(st.none(), st.lists(objects, max_size=2)),
    chat_template=st.one_of(st.none(), texts.filter(bool)),
    add_generation_prompt=st.booleans(),
    continue_final_message=st.booleans(),
    chat_template_kwargs=objects,
)
any_chats = st.builds(
    Chat,
    messages=st.lists(objects, max_size=3),
    tools=st.one_of(st.none(), st.lists(objects, max_size=2)),
    documents=st.one_of(st.none(), st.lists(objects, max_size=2)),
    chat_template=st.one_of(st.none(), texts),
    add_generation_prompt=st.booleans(),
    continue_final_message=st.booleans(),
    add_special_tokens=st.booleans(),
    chat_template_kwargs=objects,
    reasoning_effort=st.one_of(st.none(), texts),
    media=st.lists(st.builds(Media, identifier=texts, n_tokens=st.integers(1, 99)), max_size=2),
)


def over_the_wire(message: Any) -> Any:
    return type(message).FromString(message.SerializeToString())


def as_json(chat: Chat) -> bytes:
    return msgspec.json.encode(chat)  # tells the order of keys, which equality does not


@given(plain_chats)
def test_chat_that_every_service_understands_arrives_as_it_was(chat: Chat) -> None:
    request = completion_request("m", chat, takes_chats=False)
    assert not request.HasField("chat_json")
    arrived = chat_of_completion(over_the_wire(request))
    assert arrived.messages == chat.messages  # the order of a message's own fields is not kept
    for before, after in zip(chat.messages, arrived.messages, strict=True):
        assert msgspec.json.encode(after.get("tool_calls")) == msgspec.json.encode(before.get("tool_calls"))
    replace = msgspec.structs.replace
    assert as_json(replace(arrived, messages=[])) == as_json(replace(chat, messages=[]))


@pytest.mark.slow
@given(any_chats)
def test_any_chat_arrives_as_it_was_at_a_service_of_kvatlas(chat: Chat) -> None:
    sent = over_the_wire(completion_request("m", chat, takes_chats=True))
    assert sent.model_name == "m"
    assert as_json(chat_of_completion(sent)) == as_json(chat)
    assert as_json(chat_of_template(over_the_wire(template_request("m", chat)))) == as_json(chat)


TEXT = {"type": "text", "text": ""}
USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("chat", "place"),
    [
        (Chat(messages=[USER | {"name": "Ann"}]), r"messages\[0\].name"),
        (
            Chat(messages=[USER, {"role": "tool", "content": "", "tool_call_id": "7"}]),
            r"messages\[1\].tool_call",
        ),
        (
            Chat(messages=[{"role": "assistant", "content": "", "reasoning": "so"}]),
            r"messages\[0\].reasoning",
        ),
        (Chat(messages=[{"role": "u", "content": [{"type": "video_url"}]}]), r"messages\[0\].content\[0\]"),
        (
            Chat(messages=[{"role": "u", "content": [{"type": "text", "text": "", "x": 1}]}]),
            r"messages\[0\].content\[0\]",
        ),
        (Chat(messages=[USER], media=[Media(identifier="a", n_tokens=1)]), "media"),
        (Chat(messages=[USER], add_special_tokens=True), "add_special_tokens"),
    ],
)
def test_what_other_services_have_no_field_for_is_refused_by_name(chat: Chat, place: str) -> None:
    with pytest.raises(InputError, match=f"^{place}.*: expected what this .* has a field for"):
        completion_request("m", chat, takes_chats=False)


def test_fields_that_say_nothing_are_left_out() -> None:
    message: dict[str, Any] = {"role": "assistant", "content": None, "name": None, "tool_calls": []}
    request = completion_request("m", Chat(messages=[message]), takes_chats=False)
    assert chat_of_completion(request).messages == [{"role": "assistant"}]


def test_documents_and_effort_go_to_other_services_as_arguments_of_the_template() -> None:
    chat = Chat(messages=[USER], documents=[{"title": "t"}], reasoning_effort="none")
    sent = chat_of_completion(completion_request("m", chat, takes_chats=False))
    assert sent.chat_template_kwargs == {
        "documents": [{"title": "t"}],
        "enable_thinking": False,
        "reasoning_effort": "none",
    }
    told = Chat(messages=[USER], reasoning_effort="low", chat_template_kwargs={"enable_thinking": False})
    sent = chat_of_completion(completion_request("m", told, takes_chats=False))
    assert sent.chat_template_kwargs == {"enable_thinking": False, "reasoning_effort": "low"}


@pytest.mark.parametrize(
    "messages",
    [["hi"], [{"content": "hi"}], [{"role": 1}], [USER | {"content": 5}], [USER | {"content": ["hi"]}]],
)
def test_malformed_message_is_refused_with_its_place(messages: list[Any]) -> None:
    with pytest.raises(InputError, match=r"^messages\[0\]"):
        completion_request("m", Chat(messages=messages), takes_chats=False)


def test_what_json_cannot_say_is_an_input_error() -> None:
    endless: list[Any] = []
    endless.append(endless)
    unsaid: list[Any] = [[object()], endless, ["\ud800"]]
    for tools in unsaid:
        for takes_chats in (False, True):
            with pytest.raises(InputError, match="expected what JSON can say"):
                completion_request("m", Chat(messages=[USER], tools=tools), takes_chats)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"chat_json": "{"}, "^chat_json: "),
        ({"chat_json": '{"messages": 3}'}, "^chat_json: expected `array`"),
        ({"chat_json": "[" * 100_000}, "^chat_json: "),
        ({"tools_json": "{}"}, "^tools_json: expected `array`"),
        ({"tools_json": "[1]"}, "^tools_json: expected `object`"),
        ({"tools_json": '["\\ud800"]'}, "^tools_json: "),
        ({"chat_template_kwargs": "[]"}, "^chat_template_kwargs: expected `object`"),
        ({"messages": [{"role": "a", "tool_calls_json": "nope"}]}, r"^messages\[0\].tool_calls_json: "),
        (
            {"messages": [{"role": "a", "content": "x", "content_parts": [{"type": "text"}]}]},
            r"^messages\[0\]: expected either",
        ),
    ],
)
def test_malformed_request_is_refused_with_the_fields_name(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        chat_of_completion(message_class("RenderChatCompletionRequest")(**fields))


def test_generation_prompt_is_wanted_unless_said_otherwise() -> None:
    request = message_class("RenderChatCompletionRequest")
    assert chat_of_completion(request()).add_generation_prompt
    assert not chat_of_completion(request(add_generation_prompt=False)).add_generation_prompt


def test_request_to_render_a_template_is_read_whole() -> None:
    request = message_class("ChatTemplateRequest")(
        conversation_turns=[{"messages": [USER]}, {"messages": [{"role": "assistant", "content": "yes"}]}],
        tools=[{"tool": {"type": {"string_value": "function"}, "n": {"number_value": 5}}}],
        documents=[{"document": {"title": {"string_value": "t"}}}],
        chat_template_kwargs={
            "deep": {"struct_value": {"fields": {"b": {"bool_value": False}, "a": {"number_value": 0.5}}}},
            "list": {"list_value": {"values": [{"string_value": "x"}, {}]}},
        },
        add_generation_prompt=True,
    )
    chat = chat_of_template(over_the_wire(request))
    assert as_json(chat) == as_json(
        Chat(
            messages=[USER, {"role": "assistant", "content": "yes"}],
            tools=[{"n": 5, "type": "function"}],
            documents=[{"title": "t"}],
            chat_template_kwargs={"deep": {"a": 0.5, "b": False}, "list": ["x", None]},
        )
    )
