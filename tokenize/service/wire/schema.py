"""The messages of the tokenization service, made when this module is imported.

No generated code, so that one file serves every release of protobuf; and a pool of descriptors of their
own, so that code generated from the same definition may live in the same process. tokenization.proto
says the same for readers.
"""

from __future__ import annotations

import re
from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

PACKAGE = "tokenization"
SERVICE = f"{PACKAGE}.TokenizationService"
FILE = "tokenization.proto"

METHODS = {
    "Tokenize": ("TokenizeRequest", "TokenizeResponse"),
    "RenderChatTemplate": ("ChatTemplateRequest", "ChatTemplateResponse"),
    "InitializeTokenizer": ("InitializeTokenizerRequest", "InitializeTokenizerResponse"),
    "RenderChatCompletion": ("RenderChatCompletionRequest", "RenderChatCompletionResponse"),
    "RenderCompletion": ("RenderCompletionRequest", "RenderCompletionResponse"),
}
"""Names of the calls, each with the messages that it takes and gives."""

_MESSAGES = {
    "TokenizeRequest": "string input = 1; string model_name = 2; bool add_special_tokens = 3",
    "TokenizeResponse": "repeated uint32 input_ids = 1; bool success = 2; string error_message = 3; "
    "repeated uint32 offset_pairs = 4",
    "RenderCompletionRequest": "string model_name = 1; string prompt = 2",
    "RenderCompletionResponse": "string request_id = 1; repeated uint32 token_ids = 2; bool success = 3; "
    "string error_message = 4",
    "ImageUrl": "string url = 1",
    "ContentPart": "string type = 1; optional string text = 2; optional ImageUrl image_url = 3",
    "ChatMessage": "string role = 1; optional string content = 2; repeated ContentPart content_parts = 3; "
    "optional string tool_calls_json = 4",
    "RenderChatCompletionRequest": "string model_name = 1; repeated ChatMessage messages = 2; "
    "optional string tools_json = 3; string chat_template = 4; optional bool add_generation_prompt = 5; "
    "bool continue_final_message = 6; optional string chat_template_kwargs = 7; "
    "optional string chat_json = 1000",
    "RenderChatCompletionResponse": "string request_id = 1; repeated uint32 token_ids = 2; "
    "MultiModalFeatures features = 3; bool success = 4; string error_message = 5",
    "MultiModalFeatures": "map<string, StringList> mm_hashes = 1; "
    "map<string, PlaceholderRangeList> mm_placeholders = 2",
    "StringList": "repeated string values = 1",
    "PlaceholderRangeList": "repeated PlaceholderRange ranges = 1",
    "PlaceholderRange": "int32 offset = 1; int32 length = 2",
    "InitializeTokenizerRequest": "string model_name = 1; bool enable_thinking = 2; "
    "bool add_generation_prompt = 3",
    "InitializeTokenizerResponse": "bool success = 1; string error_message = 2",
    "ChatTemplateRequest": "repeated ConversationTurn conversation_turns = 1; "
    "repeated ToolDescription tools = 2; repeated Document documents = 3; string chat_template = 4; "
    "bool return_assistant_tokens_mask = 5; bool continue_final_message = 6; "
    "bool add_generation_prompt = 7; map<string, Value> chat_template_kwargs = 8; string model_name = 9; "
    "optional string chat_json = 1000",
    "ChatTemplateResponse": "string rendered_prompt = 1; bool success = 2; string error_message = 3",
    "ConversationTurn": "repeated ChatMessage messages = 1",
    "ToolDescription": "map<string, Value> tool = 1",
    "Document": "map<string, Value> document = 1",
    "Value": "oneof value string string_value = 1; oneof value double number_value = 2; "
    "oneof value bool bool_value = 3; oneof value ListValue list_value = 4; "
    "oneof value StructValue struct_value = 5",
    "ListValue": "repeated Value values = 1",
    "StructValue": "map<string, Value> fields = 1",
}

_FIELD = re.compile(
    r"(?:(?P<label>repeated|optional|oneof (?P<oneof>\w+)) )?"
    r"(?:map<string, (?P<values>\w+)>|(?P<type>\w+)) (?P<name>\w+) = (?P<number>\d+)"
)
_SCALARS = {
    "string": FieldDescriptorProto.TYPE_STRING,
    "bool": FieldDescriptorProto.TYPE_BOOL,
    "uint32": FieldDescriptorProto.TYPE_UINT32,
    "int32": FieldDescriptorProto.TYPE_INT32,
    "double": FieldDescriptorProto.TYPE_DOUBLE,
}


def file_descriptor() -> FileDescriptorProto:
    """The definition as protobuf's own compiler would state it."""
    file = FileDescriptorProto(name=FILE, package=PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field in fields.split("; "):
            _add_field(message, field)
        _add_presence(message)
    service = file.service.add(name=SERVICE.rpartition(".")[2])
    for name, (request, response) in METHODS.items():
        service.method.add(name=name, input_type=_type(request), output_type=_type(response))
    return file


def _add_field(message: DescriptorProto, text: str) -> None:
    parts = _FIELD.fullmatch(text)
    assert parts is not None, text
    field = message.field.add(name=parts["name"], number=int(parts["number"]))
    if parts["values"]:
        _set_type(field, _add_entry(message, parts["name"], parts["values"]))
        field.label = FieldDescriptorProto.LABEL_REPEATED
        return
    _set_type(field, parts["type"])
    is_repeated = parts["label"] == "repeated"
    field.label = FieldDescriptorProto.LABEL_REPEATED if is_repeated else FieldDescriptorProto.LABEL_OPTIONAL
    field.proto3_optional = parts["label"] == "optional"
    if parts["oneof"]:
        if not message.oneof_decl:
            message.oneof_decl.add(name=parts["oneof"])
        field.oneof_index = 0


def _add_entry(message: DescriptorProto, field: str, value_type: str) -> str:
    """A map is a list of entries on the wire. Returns the name of their type, below the message's."""
    name = "".join(word.capitalize() for word in field.split("_")) + "Entry"
    entry = message.nested_type.add(name=name)
    entry.options.map_entry = True
    for number, (part, kind) in enumerate((("key", "string"), ("value", value_type)), 1):
        part_field = entry.field.add(name=part, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL)
        _set_type(part_field, kind)
    return f"{message.name}.{name}"


def _add_presence(message: DescriptorProto) -> None:
    # proto3 says whether an optional field is there by a oneof of its own, after all others.
    for field in message.field:
        if field.proto3_optional:
            field.oneof_index = len(message.oneof_decl)
            message.oneof_decl.add(name=f"_{field.name}")
        else:
            field.ClearField("proto3_optional")


def _set_type(field: FieldDescriptorProto, kind: str) -> None:
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type = FieldDescriptorProto.TYPE_MESSAGE
        field.type_name = _type(kind)


def _type(name: str) -> str:
    return f".{PACKAGE}.{name}"


pool = DescriptorPool()
"""Holds this one file."""
pool.AddSerializedFile(file_descriptor().SerializeToString())
_classes: dict[str, Any] = {
    name: GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in _MESSAGES
}


def message_class(name: str) -> Any:
    """The class of one of the messages above, by its name."""
    return _classes[name]
