"""Token ids from the model servers themselves: POST /tokenize of vLLM."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from kvatlas.index.errors import InputError, TokenizerError, UnsupportedModelError, quoted
from kvatlas.tokenize.backend import TokenizerStatistics
from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.config import TokenizeLimits
from kvatlas.tokenize.loading.texts import check_text
from kvatlas.tokenize.pod_http import Answer, PodHttp, check_url
from kvatlas.tokenize.pod_question import brief, chat_question, encoded, has_media
from kvatlas.tokenize.prompt import TokenizedPrompt

_OK = 200
_REFUSED = frozenset({400, 413, 422})
_ANSWER_BYTES_PER_BYTE = 16
"""Of the question: a token has a byte at least, and at most ten digits."""
_ANSWER_BYTES_MIN = 4 << 20
"""A template may write much more than the messages have."""
_JSON_BYTES_PER_BYTE = 6
"""A control character is written as \\u0000."""
_FIELDS_BYTES = 4096
"""For the rest of a question."""
_SAID_LETTERS = 300


_Id = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]


class _Ids(msgspec.Struct, frozen=True):
    """vLLM calls them tokens, others token_ids."""

    tokens: list[_Id] | None = None
    token_ids: list[_Id] | None = None
    count: int | None = None


class _Text(msgspec.Struct, frozen=True):
    prompt: str


_Answer = TypeVar("_Answer")
_ids_decoder = msgspec.json.Decoder(_Ids)
_text_decoder = msgspec.json.Decoder(_Text)


class PodTokenizer:
    """Asks one model server. Any thread may call any method; each question is a connection's.

    The server applies its own template, of which nothing is known here but ids. Of multimodal items
    it tells no identifiers, so chats that have some are refused.
    """

    def __init__(
        self, model: str, url: str, *, timeout_s: float, limits: TokenizeLimits | None = None
    ) -> None:
        """`timeout_s` is for one question as a whole. Raises ConfigError for what is no URL."""
        self.model = model
        self.url = url.rstrip("/")
        self.served_by = f"pod:{self.url}"
        self._http = PodHttp(url)
        self._timeout_s = timeout_s
        self._limits = limits or TokenizeLimits()
        self._lock = threading.Lock()
        self._counts: dict[str, int] = dict.fromkeys(("asked", "tokens", "refused", "failed"), 0)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> TokenizedPrompt:
        """Of a plain completion."""
        check_text(text, self._limits)
        question = {"model": self.model, "prompt": text, "add_special_tokens": add_special_tokens}
        return self._tokenize(question, "prompt")

    def encode_chat(self, chat: Chat) -> TokenizedPrompt:
        """Of a chat completion."""
        _check_messages(chat.messages, self._limits.messages_max)
        if chat.media or has_media(chat.messages):
            raise InputError(
                f"messages: expected text only where ids come from {self.url}/tokenize, "
                "got multimodal parts: it tells no identifiers of them"
            )
        return self._tokenize(chat_question(self.model, chat), "messages")

    def render_chat(self, chat: Chat) -> str:
        """Raises UnsupportedModelError: a server tells ids only."""
        raise UnsupportedModelError(
            f"{self.model}: expected a chat template here, got {self.served_by}: ids only"
        )

    def decode(self, token_ids: npt.NDArray[np.uint32]) -> str:
        """The text of some ids, as the server writes it."""
        question = {"model": self.model, "tokens": token_ids.tolist()}
        body = self._ask("/detokenize", msgspec.json.encode(question), "token_ids")
        return self._read(_text_decoder, body).prompt

    def is_current(self) -> bool:
        return True

    def statistics(self) -> TokenizerStatistics:
        with self._lock:
            counts = dict(self._counts)
        counts["connected"] = self._http.n_connected
        return TokenizerStatistics(model=self.model, served_by=self.served_by, counts=counts)

    def close(self) -> None:
        self._http.close()

    def _tokenize(self, question: Mapping[str, Any], what: str) -> TokenizedPrompt:
        body = encoded(question, what)
        bytes_max = _JSON_BYTES_PER_BYTE * self._limits.text_bytes_max + _FIELDS_BYTES
        if len(body) > bytes_max:
            raise InputError(f"{what}: expected at most {bytes_max} bytes of JSON, got {len(body)}")
        token_ids = self._checked(self._read(_ids_decoder, self._ask("/tokenize", body, what)))
        self._count("tokens", len(token_ids))
        return TokenizedPrompt(token_ids, (), self.served_by)

    def _ask(self, path: str, body: bytes, what: str) -> bytes:
        self._count("asked")
        bytes_max = max(_ANSWER_BYTES_PER_BYTE * len(body), _ANSWER_BYTES_MIN)
        try:
            answer = self._http.post(path, body, timeout_s=self._timeout_s, answer_bytes_max=bytes_max)
        except (OSError, ValueError, http.client.HTTPException) as error:
            self._count("failed")
            raise TokenizerError(
                f"{self.url}{path}: expected an answer within {self._timeout_s} s, got {brief(error)}"
            ) from error
        if answer.status == _OK:
            return answer.body
        if answer.status in _REFUSED:
            self._count("refused")
            raise InputError(f"{what}: refused by {self.url}: {_said(answer)}")
        self._count("failed")
        raise TokenizerError(f"{self.url}{path}: expected status 200, got {answer.status}: {_said(answer)}")

    def _read(self, decoder: msgspec.json.Decoder[_Answer], body: bytes) -> _Answer:
        try:
            return decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._count("failed")
            raise TokenizerError(f"{self.url}: expected an answer as vLLM gives it, {error}") from None

    def _checked(self, told: _Ids) -> npt.NDArray[np.uint32]:
        ids = told.tokens if told.tokens is not None else told.token_ids
        if ids is None or told.count not in (None, len(ids)):
            self._count("failed")
            got = "none" if ids is None else f"{len(ids)}"
            raise TokenizerError(f"{self.url}: expected {told.count} ids in `tokens`, got {got}")
        return np.array(ids, dtype=np.uint32)

    def _count(self, name: str, by: int = 1) -> None:
        with self._lock:
            self._counts[name] += by


class PodSource:
    """The servers that configuration names, by model."""

    name = "pods"

    def __init__(self, pods: Mapping[str, str], timeout_s: float, limits: TokenizeLimits) -> None:
        """Raises ConfigError for what is no URL."""
        self._pods = dict(pods)
        self._timeout_s = timeout_s
        self._limits = limits
        for url in self._pods.values():
            check_url(url)

    def find(self, model: str) -> PodTokenizer | None:
        """Nobody is asked yet: a server that is away now may be back for the first prompt."""
        url = self._pods.get(model)
        if url is None:
            return None
        return PodTokenizer(model, url, timeout_s=self._timeout_s, limits=self._limits)

    def models(self) -> tuple[str, ...]:
        return tuple(sorted(self._pods))


def _check_messages(messages: object, count_max: int) -> None:
    if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)):
        raise InputError(f"messages: expected a list, got {type(messages).__name__}")
    if len(messages) > count_max:
        raise InputError(f"messages: expected at most {count_max}, got {len(messages)}")


def _said(answer: Answer) -> str:
    """The server's own words, where they can be found."""
    try:
        told = msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, RecursionError):
        told = answer.body[: 2 * _SAID_LETTERS].decode(errors="replace")
    for field in ("error", "message", "detail"):
        if isinstance(told, dict) and field in told:
            told = told[field]
    return quoted(" ".join(str(told).split()), _SAID_LETTERS)
