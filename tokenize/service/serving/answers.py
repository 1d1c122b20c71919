"""What the calls of the service do: a request's bytes in, an answer's bytes out."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from kvatlas.index.errors import InputError, KvatlasError, OverloadedError
from kvatlas.tokenize.backend import ModelTokenizer
from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.prompt import TokenizedPrompt
from kvatlas.tokenize.service.chat_requests import chat_of_completion, chat_of_template
from kvatlas.tokenize.service.serving.calls import Answer, Said
from kvatlas.tokenize.service.wire import metadata
from kvatlas.tokenize.service.wire.features import write_features
from kvatlas.tokenize.service.wire.schema import METHODS, message_class

_ERROR_CHARACTERS_MAX = 4096
_SAYS = ((metadata.TAKES_CHATS, "1"),)


class ModelTokenizers(Protocol):
    """What the service asks: `Tokenizers`, or who does as it does. Any thread."""

    def is_at_hand(self, model: object) -> bool: ...
    def get(self, model: str) -> ModelTokenizer: ...
    def encode(self, model: str, text: str, *, add_special_tokens: bool = True) -> TokenizedPrompt: ...
    def encode_chat(self, model: str, chat: Chat) -> TokenizedPrompt: ...
    def render_chat(self, model: str, chat: Chat) -> str: ...


@runtime_checkable
class _KnowsOffsets(Protocol):
    def offsets(
        self, text: str, *, add_special_tokens: bool
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]: ...


class Answers:
    """Answers requests. Any thread."""

    always_says = _SAYS

    def __init__(self, tokenizers: ModelTokenizers) -> None:
        self._tokenizers = tokenizers
        self._fill: dict[str, Callable[[Any, Any, bool], None]] = {
            "Tokenize": self._tokenize,
            "RenderChatTemplate": self._render_chat_template,
            "InitializeTokenizer": self._initialize_tokenizer,
            "RenderChatCompletion": self._render_chat_completion,
            "RenderCompletion": self._render_completion,
        }

    def question(self, method: str, payload: bytes) -> Any:
        """The request's message. Raises google.protobuf.message.DecodeError for bytes that are none."""
        return message_class(METHODS[method][0]).FromString(payload)

    def is_slow(self, request: Any) -> bool:
        """Whether its model has to be loaded, or others be asked, before it can be answered."""
        return not self._tokenizers.is_at_hand(request.model_name)

    def answer(self, method: str, request: Any, said: Said) -> Answer:
        """An answer that tells of an error where there was one of the model or the request.

        Raises OverloadedError where the tokenizers have no room.
        """
        response_name = METHODS[method][1]
        with_offsets = not metadata.value_of(said, metadata.NO_OFFSETS)
        response = message_class(response_name)()
        try:
            if not request.model_name:
                raise InputError("model_name: expected a model's name, got none")
            self._fill[method](request, response, with_offsets)
            response.success = True
            return Answer(response.SerializeToString(), _SAYS)
        except OverloadedError:
            raise
        except KvatlasError as error:
            # A new one: the first may be half filled.
            text = str(error)[:_ERROR_CHARACTERS_MAX].encode("utf-8", "replace").decode()
            failed = message_class(response_name)(success=False, error_message=text)
            error_name = type(error).__name__
            return Answer(failed.SerializeToString(), (*_SAYS, (metadata.ERROR, error_name)), error_name)

    def _tokenize(self, request: Any, response: Any, with_offsets: bool) -> None:
        add = request.add_special_tokens
        tokenizer = self._tokenizers.get(request.model_name) if with_offsets else None
        if isinstance(tokenizer, _KnowsOffsets):
            token_ids, offsets = tokenizer.offsets(request.input, add_special_tokens=add)
            response.offset_pairs.extend(offsets.reshape(-1).tolist())
        else:
            token_ids = self._tokenizers.encode(
                request.model_name, request.input, add_special_tokens=add
            ).token_ids
        response.input_ids.extend(token_ids.tolist())

    def _render_completion(self, request: Any, response: Any, _with_offsets: bool) -> None:
        response.request_id = f"cmpl-{uuid.uuid4().hex}"
        prompt = self._tokenizers.encode(request.model_name, request.prompt)
        response.token_ids.extend(prompt.token_ids.tolist())

    def _render_chat_completion(self, request: Any, response: Any, _with_offsets: bool) -> None:
        response.request_id = f"chatcmpl-{uuid.uuid4().hex}"
        prompt = self._tokenizers.encode_chat(request.model_name, chat_of_completion(request))
        response.token_ids.extend(prompt.token_ids.tolist())
        if prompt.features:
            write_features(prompt.features, response.features)

    def _render_chat_template(self, request: Any, response: Any, _with_offsets: bool) -> None:
        response.rendered_prompt = self._tokenizers.render_chat(request.model_name, chat_of_template(request))

    def _initialize_tokenizer(self, request: Any, _response: Any, _with_offsets: bool) -> None:
        self._tokenizers.get(request.model_name)
