"""All tokenizers of a process: found where the configuration says, loaded once, shared by threads."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from kvatlas.index.errors import InputError, TokenizerError, UnsupportedModelError
from kvatlas.index.prompts import Messages
from kvatlas.tokenize.backend import ModelTokenizer, TokenizerSource, TokenizerStatistics
from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.chat.request import chat_of
from kvatlas.tokenize.config import TokenizeConfig
from kvatlas.tokenize.loading.hub import HubSource
from kvatlas.tokenize.loading.places import looks_like_path, named_place
from kvatlas.tokenize.loading.shelf import Shelf
from kvatlas.tokenize.loading.sources import CacheSource, FolderSource, NamedSource
from kvatlas.tokenize.loading.texts import check_name, check_text, is_inside
from kvatlas.tokenize.local import LocalTokenizer
from kvatlas.tokenize.prompt import TokenizedPrompt

_log = logging.getLogger(__name__)


class TokenizersStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the start."""

    requests: int
    tokens: int
    """Given out."""
    refused: int
    """Requests with a text, chat or model name that is malformed or too large."""
    failed: int
    """Requests that nobody could answer."""
    passed_on: int
    """Chats that sidecar or pod were asked about, because the model's files do not suffice for them."""
    loads: int
    load_failures: int
    reloads: int
    reload_failures: int
    """New files that were no good; the tokenizer from the old ones goes on."""
    evicted: int
    """Tokenizers that had to make room for others."""
    failures_forgotten: int
    """Names that could not be loaded and had to make room for others of that kind."""
    loaded: tuple[TokenizerStatistics, ...]
    """Of each tokenizer that is held at this moment."""


class Tokenizers:
    """Turns prompts and chats into the token ids that their model's server computes.

    Any thread may call any method; a model that is being loaded holds up nobody who asks for another.
    Methods raise InputError (TemplateError) for bad input, TokenizerError that names every source tried
    and why not, UnsupportedModelError where only a model's pod can say.
    """

    def __init__(
        self, config: TokenizeConfig | None = None, *, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self.config = config or TokenizeConfig()
        self._limits = self.config.limits
        self._sources = _sources(self.config)
        self._names = frozenset((*self.config.models, *self.config.pods))
        self._shelf = self._new_shelf(self._sources, clock_s)
        # Those who are asked for chats that files do not suffice for.
        askable = [one for one in self._sources if one.name.partition(":")[0] in ("sidecar", "pods")]
        self._askable = self._new_shelf(askable, clock_s) if askable else None
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(("requests", "tokens", "refused", "failed", "passed_on"), 0)

    def get(self, model: str) -> ModelTokenizer:
        """The tokenizer of a model, loaded where it is not yet: that takes a second or two."""
        if type(model) is not str:
            check_name(model)
        return self._shelf.get(model)

    def is_at_hand(self, model: object) -> bool:
        """Whether its tokenizer is loaded and computes in this process, so that it answers soon.

        Waits for nobody and raises nothing.
        """
        is_asked = self._askable is not None and self._askable.peek(model) is not None
        return not is_asked and isinstance(self._shelf.peek(model), LocalTokenizer)

    def tokenize(
        self, model: str, *, prompt: str | None = None, messages: Messages | Mapping[str, Any] | None = None
    ) -> TokenizedPrompt:
        """Of a completion (`prompt`) or a chat (`messages`: a list, a `Chat`, a request's body)."""
        if (prompt is None) == (messages is None):
            raise InputError(
                f"expected one of prompt and messages, got {'none' if prompt is None else 'both'}"
            )
        if prompt is not None:
            return self.encode(model, prompt)
        return self.encode_chat(model, chat_of(messages))  # type: ignore[arg-type]

    def encode(self, model: str, text: str, *, add_special_tokens: bool = True) -> TokenizedPrompt:
        """Of a plain completion."""
        try:
            check_text(text, self._limits)
            return self._counted(self.get(model).encode(text, add_special_tokens=add_special_tokens))
        except (InputError, TokenizerError) as error:
            self._count_error(error)
            raise

    def encode_many(
        self, model: str, texts: Sequence[str], *, add_special_tokens: bool = True
    ) -> list[TokenizedPrompt]:
        """Of several plain completions; what no memo holds is encoded in parallel."""
        try:
            if isinstance(texts, (str, bytes)) or not isinstance(texts, Sequence):
                raise InputError(f"texts: expected a list of strings, got one {type(texts).__name__}")
            tokenizer = self.get(model)
            if isinstance(tokenizer, LocalTokenizer):
                encoded = tokenizer.encode_many(texts, add_special_tokens=add_special_tokens)
            else:
                for place, text in enumerate(texts):
                    check_text(text, self._limits, f"texts[{place}]")
                encoded = [tokenizer.encode(text, add_special_tokens=add_special_tokens) for text in texts]
        except (InputError, TokenizerError) as error:
            self._count_error(error)
            raise
        return [self._counted(prompt) for prompt in encoded]

    def encode_chat(self, model: str, chat: Chat) -> TokenizedPrompt:
        """Of a chat completion. Where the files do not suffice for chats, sidecar or pod is asked."""
        try:
            chat = chat_of(chat)
            try:
                prompt = self.get(model).encode_chat(chat)
            except UnsupportedModelError as refusal:
                prompt = self._pass_on(model, chat, refusal)
            return self._counted(prompt)
        except (InputError, TokenizerError) as error:
            self._count_error(error)
            raise

    def render_chat(self, model: str, chat: Chat) -> str:
        """The text that the model's chat template makes of a chat."""
        return self.get(model).render_chat(chat_of(chat))

    def models(self) -> tuple[str, ...]:
        """Names that the sources know beforehand, sorted: searches folders. Others may be found as well."""
        return tuple(sorted({name for source in self._sources for name in source.models()}))

    def statistics(self) -> TokenizersStatistics:
        """Counts, and of each loaded tokenizer how it is."""
        counts, loaded = self._shelf.statistics()
        with self._lock:
            own = dict(self._counts)
        return TokenizersStatistics(**own, **msgspec.structs.asdict(counts), loaded=tuple(loaded))

    def close(self) -> None:
        """Lets go of all tokenizers; later calls raise TokenizerError. Twice is fine."""
        self._shelf.close()
        if self._askable is not None:
            self._askable.close()

    def _new_shelf(self, sources: Sequence[TokenizerSource], clock_s: Callable[[], float]) -> Shelf:
        return Shelf(
            lambda model: self._find(model, sources),
            check=self._check,
            loaded_max=self.config.loaded_max,
            look_s=self.config.look_s,
            clock_s=clock_s,
        )

    def _pass_on(self, model: str, chat: Chat, refusal: UnsupportedModelError) -> TokenizedPrompt:
        """To those who can be asked; raises the refusal where nobody knows the model."""
        if self._askable is None:
            raise refusal
        try:
            tokenizer = self._askable.get(model)
        except TokenizerError as error:
            raise UnsupportedModelError(f"{refusal}; {error}") from refusal
        with self._lock:
            self._counts["passed_on"] += 1
        return tokenizer.encode_chat(chat)

    def _check(self, model: str) -> None:
        check_name(model)
        if model not in self._names and not is_inside(model):
            raise InputError(f"model: expected a name, got what looks like a path: {model!r}")

    def _find(self, model: str, sources: Sequence[TokenizerSource]) -> ModelTokenizer:
        other = self.config.models.get(model, model)
        # A word of the configuration that is no place is the name by which other sources know the model.
        if looks_like_path(other) or (other != model and named_place(other) is not None):
            other = model
        reasons: list[str] = []
        refusal: UnsupportedModelError | None = None
        is_broken = False
        for source in sources:
            try:
                tokenizer = source.find(model if source.name in ("models", "pods") else other)
            except TokenizerError as error:
                reasons.append(f"{source.name}: {error}")
                is_broken |= isinstance(source, (NamedSource, FolderSource, CacheSource))
                if isinstance(error, UnsupportedModelError):
                    refusal = error
            else:
                if tokenizer is not None:
                    # Files that are there and no good are worth a look, files that are not there are not.
                    level = logging.WARNING if is_broken else logging.INFO
                    before = f"; before: {'; '.join(reasons)}" if reasons else ""
                    _log.log(level, "%s: served by %s%s", model, tokenizer.served_by, before)
                    return tokenizer
                reasons.append(f"{source.name}: no such model")
        kind = TokenizerError if refusal is None else UnsupportedModelError
        known_as = f" (elsewhere {other!r})" if other != model else ""
        why_not = "; ".join(reasons) or "no sources"
        raise kind(f"model {model!r}{known_as}: expected a tokenizer, found none. {why_not}")

    def _counted(self, prompt: TokenizedPrompt) -> TokenizedPrompt:
        with self._lock:
            self._counts["requests"] += 1
            self._counts["tokens"] += len(prompt.token_ids)
        return prompt

    def _count_error(self, error: InputError | TokenizerError) -> None:
        with self._lock:
            self._counts["requests"] += 1
            self._counts["refused" if isinstance(error, InputError) else "failed"] += 1


def _sources(config: TokenizeConfig) -> list[TokenizerSource]:
    """In their order; those that the configuration gives nothing to do are left out."""
    sources: list[TokenizerSource] = []
    for name in config.order:
        if name == "models" and config.models:
            sources.append(NamedSource(config))
        elif name == "folders" and config.folders:
            sources.append(FolderSource(config))
        elif name == "cache":
            sources.append(CacheSource(config))
        elif name == "hub":
            sources.append(HubSource(config))
        elif name == "sidecar" and config.sidecar.address is not None:
            from kvatlas.tokenize.service.sidecar import SidecarSource

            sources.append(SidecarSource(config.sidecar, config.limits))
        elif name == "pods" and config.pods:
            from kvatlas.tokenize.pods import PodSource

            sources.append(PodSource(config.pods, config.pod_timeout_s, config.limits))
    return sources
