"""The service as clients of other makers see it: their messages, over sockets."""

from __future__ import annotations

import json
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from kvatlas.index.errors import ConfigError
from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.service.config import ServiceConfig
from kvatlas.tokenize.service.serving.server import TokenizationServer
from kvatlas.tokenize.service.wire.schema import file_descriptor
from kvatlas.tokenize.tokenizers import Tokenizers
from tests.tokenize.service.calling import Caller, GatedTokenizers, code_of

USER = {"role": "user", "content": "hi <|turn|> é"}
TOOLS = [{"type": "function", "function": {"name": "f", "b": 1, "a": "é"}}]
SERVICE = "tokenization.TokenizationService"


@pytest.fixture(scope="module", params=["tcp", "unix"])
def caller(request: pytest.FixtureRequest, tokenizers: Tokenizers) -> Iterator[Caller]:
    with tempfile.TemporaryDirectory(prefix="kv") as folder:
        address = ":0" if request.param == "tcp" else f"unix:{folder}/a.sock"
        server = TokenizationServer(tokenizers, ServiceConfig(listen=(address,)))
        (dialed,) = server.start()
        with Caller(dialed) as made:
            yield made
        server.stop(0)


def test_text_has_the_ids_of_the_tokenizer_and_offsets_in_characters(
    caller: Caller, tokenizers: Tokenizers
) -> None:
    for add_special_tokens in (False, True):
        got = caller.call("Tokenize", input="é b", model_name="small", add_special_tokens=add_special_tokens)
        prompt = tokenizers.encode("small", "é b", add_special_tokens=add_special_tokens)
        assert got.success and not got.error_message
        assert list(got.input_ids) == prompt.token_ids.tolist()
        pairs = list(zip(got.offset_pairs[::2], got.offset_pairs[1::2], strict=True))
        # é is two bytes, so two tokens, of one character.
        assert pairs == [(0, 0)] * add_special_tokens + [(0, 1), (0, 1), (1, 2), (2, 3)]


def test_nothing_is_added_to_a_text_unless_asked(caller: Caller) -> None:
    assert len(caller.call("Tokenize", input="ab", model_name="small").input_ids) == 2
    assert len(caller.call("RenderCompletion", prompt="ab", model_name="small").token_ids) == 3


def test_completion_has_the_ids_of_the_tokenizer_and_a_name_of_its_own(
    caller: Caller, tokenizers: Tokenizers
) -> None:
    answers = [caller.call("RenderCompletion", model_name="small", prompt="a<|tool|>b") for _ in range(2)]
    assert list(answers[0].token_ids) == tokenizers.encode("small", "a<|tool|>b").token_ids.tolist()
    assert answers[0].success and answers[0].request_id.startswith("cmpl-")
    assert answers[0].request_id != answers[1].request_id


@pytest.mark.parametrize(
    ("fields", "chat"),
    [
        ({}, Chat(messages=[USER])),
        ({"add_generation_prompt": False}, Chat(messages=[USER], add_generation_prompt=False)),
        (
            {"add_generation_prompt": False, "continue_final_message": True},
            Chat(messages=[USER], add_generation_prompt=False, continue_final_message=True),
        ),
        ({"tools_json": json.dumps(TOOLS)}, Chat(messages=[USER], tools=TOOLS)),
        (
            {"chat_template_kwargs": '{"style": 5}'},
            Chat(messages=[USER], chat_template_kwargs={"style": 5}),
        ),
        (
            {"chat_template": "{{ messages | length }}<|turn|>"},
            Chat(messages=[USER], chat_template="{{ messages | length }}<|turn|>"),
        ),
    ],
)
def test_chat_has_the_ids_of_the_tokenizer(
    caller: Caller, tokenizers: Tokenizers, fields: dict[str, Any], chat: Chat
) -> None:
    got = caller.call("RenderChatCompletion", model_name="small", messages=[USER], **fields)
    assert got.success, got.error_message
    assert list(got.token_ids) == tokenizers.encode_chat("small", chat).token_ids.tolist()
    assert got.request_id.startswith("chatcmpl-")
    assert not got.HasField("features")


def test_parts_and_tool_calls_of_a_chat_are_rendered(caller: Caller, tokenizers: Tokenizers) -> None:
    calls = [{"type": "function", "id": "1", "function": {"name": "f", "arguments": '{"z": 1, "y": 2}'}}]
    got = caller.call(
        "RenderChatCompletion",
        model_name="small",
        messages=[
            {"role": "user", "content_parts": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "tool_calls_json": json.dumps(calls)},
        ],
    )
    assert got.success, got.error_message
    chat = Chat(
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "tool_calls": calls},
        ]
    )
    assert list(got.token_ids) == tokenizers.encode_chat("small", chat).token_ids.tolist()
    assert "a\nb" in tokenizers.render_chat("small", chat)


def test_template_is_rendered(caller: Caller, tokenizers: Tokenizers) -> None:
    got = caller.call(
        "RenderChatTemplate",
        model_name="small",
        conversation_turns=[{"messages": [USER]}],
        documents=[{"document": {"title": {"string_value": "T"}}}],
        chat_template_kwargs={"style": {"number_value": 5}},
        add_generation_prompt=True,
    )
    chat = Chat(messages=[USER], documents=[{"title": "T"}], chat_template_kwargs={"style": 5})
    assert got.success, got.error_message
    assert got.rendered_prompt == tokenizers.render_chat("small", chat)
    assert "<|tool|>5<|turn|>assistant:" in got.rendered_prompt


def test_model_is_loaded(caller: Caller) -> None:
    assert caller.call("InitializeTokenizer", model_name="small", enable_thinking=True).success


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("InitializeTokenizer", {"model_name": "other"}, "'other'"),
        ("InitializeTokenizer", {"model_name": "../../etc"}, "etc"),
        ("InitializeTokenizer", {}, "model_name: expected a model's name, got none"),
        ("Tokenize", {"model_name": "other", "input": "a"}, "'other'"),
        ("RenderCompletion", {"model_name": "other", "prompt": "a"}, "'other'"),
        ("RenderChatCompletion", {"model_name": "small"}, "messages"),
        (
            "RenderChatCompletion",
            {"model_name": "small", "messages": [{"role": "forbidden", "content": "x"}]},
            "no such role here",
        ),
        ("RenderChatCompletion", {"model_name": "small", "tools_json": "{"}, "tools_json"),
        (
            "RenderChatCompletion",
            {"model_name": "small", "messages": [USER], "chat_template": "{{ oh"},
            "template",
        ),
        ("RenderChatTemplate", {"model_name": "small", "chat_json": "{}"}, "messages"),
    ],
)
def test_error_of_request_or_model_is_an_answer(
    caller: Caller, name: str, fields: dict[str, Any], message: str
) -> None:
    got = caller.call(name, **fields)
    assert not got.success
    assert message in got.error_message


def test_bytes_that_are_no_request_are_refused(caller: Caller) -> None:
    raw: Any = caller.channel.unary_unary(f"/{SERVICE}/Tokenize")
    for payload in (b"\xff\xff\xff", b"\x0a\x02\xff\xfe"):  # no message; a text that is not UTF-8
        with pytest.raises(grpc.RpcError, match="Tokenize: expected one of its requests") as caught:
            raw(payload)
        assert code_of(caught.value) is grpc.StatusCode.INVALID_ARGUMENT
    assert caller.call("Tokenize", input="a", model_name="small").success


def test_call_that_there_is_not_is_said_so(caller: Caller) -> None:
    detokenize: Any = caller.channel.unary_unary(f"/{SERVICE}/Detokenize")
    with pytest.raises(grpc.RpcError) as caught:
        detokenize(b"")
    assert code_of(caught.value) is grpc.StatusCode.UNIMPLEMENTED


def test_health_is_told(caller: Caller) -> None:
    health: Any = health_pb2_grpc.HealthStub(caller.channel)
    for name in ("", SERVICE):
        response = health.Check(health_pb2.HealthCheckRequest(service=name))
        assert response.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="other"))
    assert code_of(caught.value) is grpc.StatusCode.NOT_FOUND


def reflect(channel: grpc.Channel, **fields: str) -> Any:
    request = reflection_pb2.ServerReflectionRequest(**fields)  # type: ignore[arg-type]
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    (answer,) = stub.ServerReflectionInfo(iter([request]))
    return answer


def test_calls_are_told_by_reflection(caller: Caller) -> None:
    listed = reflect(caller.channel, list_services="").list_services_response.service
    assert {SERVICE, "grpc.health.v1.Health"} <= {service.name for service in listed}
    (file,) = reflect(
        caller.channel, file_containing_symbol=SERVICE
    ).file_descriptor_response.file_descriptor_proto
    assert [m.name for m in FileDescriptorProto.FromString(file).message_type] == [
        m.name for m in file_descriptor().message_type
    ]
    health = reflect(caller.channel, file_containing_symbol="grpc.health.v1.Health")
    assert health.file_descriptor_response.file_descriptor_proto


def test_reflection_can_be_turned_off(tokenizers: Tokenizers) -> None:
    server = TokenizationServer(tokenizers, ServiceConfig(listen=(":0",), reflection=False))
    (address,) = server.start()
    with Caller(address) as caller, pytest.raises(grpc.RpcError) as caught:
        reflect(caller.channel, list_services="")
    assert code_of(caught.value) is grpc.StatusCode.UNIMPLEMENTED
    server.stop(0)


def test_features_of_a_prompt_are_told(tokenizers: Tokenizers) -> None:
    with_media = GatedTokenizers(tokenizers)
    with_media.features = (("cat", 1, 2), ("dog", 4, 1))
    server = TokenizationServer(with_media, ServiceConfig(listen=(":0",)))
    (address,) = server.start()
    with Caller(address) as caller:
        got = caller.call("RenderChatCompletion", model_name="small", messages=[USER])
    server.stop(0)
    assert list(got.features.mm_hashes["image"].values) == ["cat", "dog"]
    assert [(r.offset, r.length) for r in got.features.mm_placeholders["image"].ranges] == [(1, 2), (4, 1)]


def test_several_addresses_serve_the_same(tokenizers: Tokenizers, socket_folder: Path) -> None:
    path = socket_folder / "a.sock"
    config = ServiceConfig(listen=(":0", f"unix:{path}", "[::1]:0"), socket_mode="620")
    server = TokenizationServer(tokenizers, config)
    for address in server.start():
        with Caller(address) as caller:
            assert caller.call("InitializeTokenizer", model_name="small").success
    assert stat.S_IMODE(path.stat().st_mode) == 0o620
    server.stop(0)
    assert not path.exists()


def test_address_that_is_taken_is_a_config_error_and_nothing_stays_open(
    tokenizers: Tokenizers, socket_folder: Path
) -> None:
    first = TokenizationServer(tokenizers, ServiceConfig(listen=(":0",)))
    (address,) = first.start()
    config = ServiceConfig(listen=(f"unix:{socket_folder}/a.sock", address))
    with pytest.raises(ConfigError, match=f"{address}: expected to listen there"):
        TokenizationServer(tokenizers, config).start()
    first.stop(0)
    second = TokenizationServer(tokenizers, config)
    assert second.start()[1] == address
    third = TokenizationServer(tokenizers, ServiceConfig(listen=config.listen[:1]))
    with pytest.raises(ConfigError, match="another service holds it"):
        third.start()
    with Caller(config.listen[0]) as caller:
        assert caller.call("InitializeTokenizer", model_name="small").success
    second.stop(0)


def test_socket_of_a_dead_service_is_taken_over(tokenizers: Tokenizers, socket_folder: Path) -> None:
    dead, path = socket_folder / "dead.sock", socket_folder / "a.sock"
    first = TokenizationServer(tokenizers, ServiceConfig(listen=(f"unix:{dead}",)))
    first.start()
    dead.rename(path)  # what a killed process leaves: a file that nobody listens at
    first.stop(0)
    assert path.is_socket()
    with TokenizationServer(tokenizers, ServiceConfig(listen=(f"unix:{path}",))), Caller(f"unix:{path}") as c:
        assert c.call("InitializeTokenizer", model_name="small").success
