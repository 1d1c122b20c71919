"""Tokenizers of another process, asked over gRPC: a service of kvatlas or of llm-d."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import numpy.typing as npt

from kvatlas.index.errors import InputError, KvatlasError, TokenizerError, UnsupportedModelError
from kvatlas.tokenize.backend import TokenizerStatistics
from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.config import SidecarConfig, TokenizeLimits
from kvatlas.tokenize.loading.texts import check_text
from kvatlas.tokenize.prompt import TokenizedPrompt
from kvatlas.tokenize.service.sidecar_channel import SidecarChannel
from kvatlas.tokenize.service.wire.chat_messages import completion_request, template_request
from kvatlas.tokenize.service.wire.features import read_features
from kvatlas.tokenize.service.wire.schema import message_class


class SidecarSource:
    """The models that a service knows."""

    def __init__(self, config: SidecarConfig, limits: TokenizeLimits | None = None) -> None:
        self._config = config
        self._limits = limits or TokenizeLimits()

    @property
    def name(self) -> str:
        return f"sidecar:{self._config.address}" if self._config.address else "sidecar"

    def find(self, model: str) -> SidecarTokenizer | None:
        """Has the service load the model. None: no service is configured.

        Raises TokenizerError where it does not know the model, cannot load it, has no room or does not
        answer; ConfigError for a bad address.
        """
        if self._config.address is None:
            return None
        channel = SidecarChannel(self._config)
        try:
            request = _message("InitializeTokenizerRequest", model_name=model, add_generation_prompt=True)
            channel.call("InitializeTokenizer", request)
        except KvatlasError as error:
            channel.close()
            # Of whatever kind: to whoever looks for a model it is a place that has none.
            kind = type(error) if isinstance(error, TokenizerError) else TokenizerError
            raise kind(str(error).removeprefix(f"{self.name}: ")) from error
        return SidecarTokenizer(model, channel, self._limits)

    def models(self) -> tuple[str, ...]:
        """None: the service has no call that lists them."""
        return ()


class SidecarTokenizer:
    """One model, as a service computes it. A ModelTokenizer."""

    def __init__(self, model: str, channel: SidecarChannel, limits: TokenizeLimits) -> None:
        self._model = model
        self._channel = channel
        self._limits = limits

    @property
    def model(self) -> str:
        return self._model

    @property
    def served_by(self) -> str:
        return self._channel.name

    def encode(self, text: str, *, add_special_tokens: bool = True) -> TokenizedPrompt:
        check_text(text, self._limits, where="prompt")
        if add_special_tokens:
            request = _message("RenderCompletionRequest", model_name=self._model, prompt=text)
            return self._prompt(self._channel.call("RenderCompletion", request).token_ids)
        request = _message("TokenizeRequest", model_name=self._model, input=text)
        return self._prompt(self._channel.call("Tokenize", request, without_offsets=True).input_ids)

    def encode_chat(self, chat: Chat) -> TokenizedPrompt:
        """Raises InputError, too, for what the service has no field for: llm-d's have none for known
        media, nor for names, ids and reasoning in messages."""
        request = completion_request(self._model, chat, self._channel.takes_chats)
        states_chat = request.HasField("chat_json")
        response = self._channel.call("RenderChatCompletion", request, states_chat=states_chat)
        features = read_features(response.features, len(response.token_ids), self.served_by)
        return self._prompt(response.token_ids)._replace(features=features)

    def render_chat(self, chat: Chat) -> str:
        if not self._channel.takes_chats:
            # llm-d's call renders messages alone: no tools, no arguments of the template.
            raise UnsupportedModelError(
                f"{self.served_by}: expected a service that renders whole chats, it gives ids only"
            )
        request = template_request(self._model, chat)
        text: str = self._channel.call("RenderChatTemplate", request, states_chat=True).rendered_prompt
        return text

    def is_current(self) -> bool:
        return True  # the service looks after its files

    def statistics(self) -> TokenizerStatistics:
        return TokenizerStatistics(
            model=self._model, served_by=self.served_by, counts=self._channel.statistics()
        )

    def close(self) -> None:
        """Calls that run, and later ones, are still answered; in between there is no connection."""
        self._channel.close()

    def _prompt(self, token_ids: Any) -> TokenizedPrompt:
        # A slice is a list, which an array takes twice as fast as it takes the message's own sequence.
        ids: npt.NDArray[np.uint32] = np.frombuffer(array("I", token_ids[:]), np.uint32)
        return TokenizedPrompt(ids, served_by=self.served_by)


def _message(kind: str, **fields: Any) -> Any:
    try:
        return message_class(kind)(**fields)
    except (UnicodeError, ValueError) as error:  # a lone surrogate
        raise InputError(f"{kind}: expected text that UTF-8 can say: {error}") from error
