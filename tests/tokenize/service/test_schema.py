"""The messages made here are those of tokenization.proto."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.tokenize.service.wire.schema import METHODS, file_descriptor, message_class
from tests.tokenize.service.compiled import compiled_class, compiled_file, foreign_class

NAMES = [message.name for message in compiled_file().message_type]


def without_json_names(file: FileDescriptorProto) -> FileDescriptorProto:
    # The compiler adds how JSON would name each field, which follows from its name.
    plain = FileDescriptorProto()
    plain.CopyFrom(file)
    for message in plain.message_type:
        for part in (message, *message.nested_type):
            for field in part.field:
                field.ClearField("json_name")
    return plain


def test_definition_is_what_the_compiler_makes_of_the_proto_file() -> None:
    ours, theirs = without_json_names(file_descriptor()), without_json_names(compiled_file())
    assert {m.name: m for m in ours.message_type} == {m.name: m for m in theirs.message_type}
    for file in (ours, theirs):
        del file.message_type[:]
    assert ours == theirs


def test_every_message_of_the_proto_file_has_a_class() -> None:
    made = [message_class(name).DESCRIPTOR.full_name for name in NAMES]
    assert made == [f"tokenization.{name}" for name in NAMES]
    assert {name for pair in METHODS.values() for name in pair} <= set(NAMES)


texts = st.text(st.characters(codec="utf-8"), max_size=20)
ids = st.lists(st.integers(0, 2**32 - 1), max_size=20)
values: st.SearchStrategy[dict[str, Any]] = st.recursive(
    st.one_of(
        st.builds(lambda v: {"string_value": v}, texts),
        st.builds(lambda v: {"number_value": v}, st.floats(allow_nan=False)),
        st.builds(lambda v: {"bool_value": v}, st.booleans()),
        st.just({}),
    ),
    lambda inner: st.one_of(
        st.builds(lambda v: {"list_value": {"values": v}}, st.lists(inner, max_size=3)),
        st.builds(lambda v: {"struct_value": {"fields": v}}, st.dictionaries(texts, inner, max_size=3)),
    ),
    max_leaves=8,
)
parts = st.fixed_dictionaries(
    {"type": texts}, optional={"text": texts, "image_url": st.fixed_dictionaries({"url": texts})}
)
messages = st.fixed_dictionaries(
    {"role": texts},
    optional={"content": texts, "content_parts": st.lists(parts, max_size=3), "tool_calls_json": texts},
)
features = st.fixed_dictionaries(
    {
        "mm_hashes": st.dictionaries(texts, st.builds(lambda v: {"values": v}, st.lists(texts, max_size=3))),
        "mm_placeholders": st.dictionaries(
            texts,
            st.builds(
                lambda pairs: {"ranges": [{"offset": o, "length": n} for o, n in pairs]},
                st.lists(st.tuples(*[st.integers(-(2**31), 2**31 - 1)] * 2), max_size=3),
            ),
        ),
    }
)
CASES: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "TokenizeRequest": st.fixed_dictionaries(
        {"input": texts, "model_name": texts, "add_special_tokens": st.booleans()}
    ),
    "TokenizeResponse": st.fixed_dictionaries(
        {"input_ids": ids, "success": st.booleans(), "error_message": texts, "offset_pairs": ids}
    ),
    "RenderChatCompletionRequest": st.fixed_dictionaries(
        {"model_name": texts, "messages": st.lists(messages, max_size=3)},
        optional={
            "tools_json": texts,
            "chat_template": texts,
            "add_generation_prompt": st.booleans(),
            "continue_final_message": st.booleans(),
            "chat_template_kwargs": texts,
            "chat_json": texts,
        },
    ),
    "RenderChatCompletionResponse": st.fixed_dictionaries(
        {"request_id": texts, "token_ids": ids, "success": st.booleans(), "error_message": texts},
        optional={"features": features},
    ),
    "ChatTemplateRequest": st.fixed_dictionaries(
        {
            "conversation_turns": st.lists(
                st.builds(lambda v: {"messages": v}, st.lists(messages, max_size=2)), max_size=2
            ),
            "tools": st.lists(
                st.builds(lambda v: {"tool": v}, st.dictionaries(texts, values, max_size=2)), max_size=2
            ),
            "chat_template_kwargs": st.dictionaries(texts, values, max_size=3),
            "add_generation_prompt": st.booleans(),
            "model_name": texts,
        },
        optional={"chat_json": texts},
    ),
}


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
def test_bytes_are_read_by_code_from_the_compiler_and_the_other_way_round(
    name: str, data: st.DataObject
) -> None:
    fields = data.draw(CASES[name])
    ours, theirs = message_class(name)(**fields), compiled_class(name)(**fields)
    for source, target in ((ours, theirs), (theirs, ours)):
        read = type(target).FromString(source.SerializeToString())
        assert read == target
    assert ours.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_decode_error(payload: bytes) -> None:
    try:
        message = message_class("RenderChatCompletionRequest").FromString(payload)
    except DecodeError:
        return
    assert message.ByteSize() >= 0


def test_numbers_of_llm_d_are_where_its_programs_look_for_them() -> None:
    """Bytes written by hand from the numbers of the issue, not from our own definition."""
    assert message_class("TokenizeRequest")(input="a", model_name="m", add_special_tokens=True) == (
        message_class("TokenizeRequest").FromString(b"\x0a\x01a\x12\x01m\x18\x01")
    )
    packed = b"\x0a\x03\x01\xac\x02" + b"\x10\x01" + b"\x22\x02\x00\x05"
    response = message_class("TokenizeResponse").FromString(packed)
    assert list(response.input_ids) == [1, 300] and list(response.offset_pairs) == [0, 5]
    assert response.success
    chat = message_class("RenderChatCompletionRequest").FromString(
        b"\x0a\x01m\x12\x09\x0a\x04user\x12\x01h" + b"\x1a\x02[]\x28\x00\x30\x01\x3a\x02{}"
    )
    assert (chat.model_name, chat.messages[0].role, chat.messages[0].content) == ("m", "user", "h")
    assert (chat.tools_json, chat.chat_template_kwargs, chat.continue_final_message) == ("[]", "{}", True)
    assert chat.HasField("add_generation_prompt") and not chat.add_generation_prompt


def test_field_of_our_own_is_skipped_by_who_does_not_know_it() -> None:
    theirs = foreign_class("RenderChatCompletionRequest")
    ours = message_class("RenderChatCompletionRequest")(model_name="m", chat_json="{}")
    read = theirs.FromString(ours.SerializeToString())
    assert read.model_name == "m" and not hasattr(read, "chat_json")
    assert not read.messages
