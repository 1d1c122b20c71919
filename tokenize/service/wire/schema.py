"""The messages of the tokenization service, made when this module is imported.

tokenization.proto says the same for readers.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from kvatlas.tokenize.service.wire.definition import Definition

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

DEFINITION = Definition(FILE, PACKAGE, {SERVICE.rpartition(".")[2]: METHODS}, _MESSAGES)


def file_descriptor() -> FileDescriptorProto:
    """The definition as protobuf's own compiler would state it."""
    return DEFINITION.file


def message_class(name: str) -> Any:
    """The class of one of the messages above, by its name."""
    return DEFINITION.message_class(name)
