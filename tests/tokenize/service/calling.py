"""A client as generated code would be: protobuf's own classes and a channel, nothing of kvatlas."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import grpc

from kvatlas.index.keys import Feature
from kvatlas.tokenize.backend import ModelTokenizer
from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.prompt import TokenizedPrompt
from kvatlas.tokenize.tokenizers import Tokenizers
from tests.tokenize.service.compiled import compiled_class

PATIENCE_S = 60.0
RESPONSES = {
    "Tokenize": "TokenizeResponse",
    "RenderChatTemplate": "ChatTemplateResponse",
    "InitializeTokenizer": "InitializeTokenizerResponse",
    "RenderChatCompletion": "RenderChatCompletionResponse",
    "RenderCompletion": "RenderCompletionResponse",
}
REQUESTS = {name: response.replace("Response", "Request") for name, response in RESPONSES.items()}


def _serialized(message: Any) -> bytes:
    payload: bytes = message.SerializeToString()
    return payload


class Caller:
    """Calls a service at an address."""

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None = None) -> None:
        options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
        self.channel = (
            grpc.insecure_channel(address, options)
            if credentials is None
            else grpc.secure_channel(address, credentials, options)
        )

    def method(self, name: str) -> Any:
        return self.channel.unary_unary(
            f"/tokenization.TokenizationService/{name}",
            request_serializer=_serialized,
            response_deserializer=compiled_class(RESPONSES[name]).FromString,
        )

    def call(self, name: str, **fields: Any) -> Any:
        return self.method(name)(compiled_class(REQUESTS[name])(**fields), timeout=PATIENCE_S)

    def begin(self, name: str, timeout_s: float = PATIENCE_S, **fields: Any) -> Any:
        """A call that is not waited for: a future."""
        return self.method(name).future(compiled_class(REQUESTS[name])(**fields), timeout=timeout_s)

    def __enter__(self) -> Caller:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.channel.close()


def code_of(error: grpc.RpcError) -> grpc.StatusCode:
    assert isinstance(error, grpc.Call)
    return error.code()


def wait_until(condition: Callable[[], bool]) -> None:
    tick = threading.Event()
    for _ in range(int(PATIENCE_S * 1000)):
        if condition():
            return
        tick.wait(0.001)
    raise AssertionError("the condition did not come true")


class GatedTokenizers:
    """Real tokenizers behind a gate: plain completions, and a model named `hanging`, wait for it to open."""

    def __init__(self, tokenizers: Tokenizers) -> None:
        self._tokenizers = tokenizers
        self.gate = threading.Event()
        self.inside = threading.Semaphore(0)
        """Released by every request that has reached the gate."""
        self.features: tuple[Feature, ...] = ()
        """Of every chat."""
        self.chat_error: Exception | None = None
        """What becomes of every chat, in place of ids."""

    def is_at_hand(self, model: object) -> bool:
        return self._tokenizers.is_at_hand(model)

    def get(self, model: str) -> ModelTokenizer:
        if model == "hanging":
            self.inside.release()
            assert self.gate.wait(PATIENCE_S)
        return self._tokenizers.get(model)

    def encode_chat(self, model: str, chat: Chat) -> TokenizedPrompt:
        if self.chat_error is not None:
            raise self.chat_error
        return self._tokenizers.encode_chat(model, chat)._replace(features=self.features)

    def render_chat(self, model: str, chat: Chat) -> str:
        return self._tokenizers.render_chat(model, chat)

    def encode(self, model: str, text: str, *, add_special_tokens: bool = True) -> TokenizedPrompt:
        self.inside.release()
        assert self.gate.wait(PATIENCE_S)
        return self._tokenizers.encode(model, text, add_special_tokens=add_special_tokens)
