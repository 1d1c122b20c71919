"""Token ids computed here, from the files of a model's tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

from kvatlas.index.errors import InputError, TemplateError, UnsupportedModelError
from kvatlas.tokenize.backend import TokenizerStatistics
from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.chat.media import expand
from kvatlas.tokenize.chat.rendering import ChatRenderer
from kvatlas.tokenize.chat.surrogates import name_surrogate
from kvatlas.tokenize.chat.template_files import TemplateFiles, template_files
from kvatlas.tokenize.config import TokenizeConfig
from kvatlas.tokenize.loading.classes.effective import Effective, effective
from kvatlas.tokenize.loading.files import Place, TokenizerFiles, read_files, stamp_of
from kvatlas.tokenize.loading.texts import check_text
from kvatlas.tokenize.prompt import TokenizedPrompt

if TYPE_CHECKING:
    from kvatlas.tokenize.segments.encoder import SegmentEncoder

_log = logging.getLogger(__name__)


class LocalTokenizer:
    """A model's tokenizer and chat template, from a folder of files (a `ModelTokenizer`).

    Raises TokenizerError with the path of a file that is missing or no good, UnsupportedModelError where
    there is a tokenizer of another kind. Any thread may call any method. Cost of loading: 0.5 to 2 s.
    """

    def __init__(self, model: str, place: Place, config: TokenizeConfig, *, served_by: str = "") -> None:
        from kvatlas.tokenize.segments.encoder import SegmentEncoder

        self.model = model
        self.served_by = served_by or f"files:{place}"
        self._place = place
        self._limits = config.limits
        files = read_files(place)
        self._stamp = files.stamp
        made = effective(files)
        self.doubt = made.doubt
        self.class_name = made.class_name
        if made.doubt:
            _log.warning(
                "%s: token ids may differ from the server's: %s. Compare with a pod: kvatlas tokenize check",
                model,
                made.doubt,
            )
        self._templates = _templates(files, made)
        self._renderer: ChatRenderer | None = None
        self._refusal: TemplateError | UnsupportedModelError | InputError | None = None
        try:
            self._renderer = ChatRenderer(
                self._templates, limits=config.limits, request_templates=config.request_templates, model=model
            )
        except (InputError, UnsupportedModelError) as error:
            # Its plain completions can be encoded all the same.
            self._refusal = error
        self.encoder: SegmentEncoder = SegmentEncoder(
            made.tokenizer, name=model, memo_bytes_max=config.memo_bytes_max, check_share=config.check_share
        )

    def encode(self, text: str, *, add_special_tokens: bool = True) -> TokenizedPrompt:
        """Of a plain completion."""
        check_text(text, self._limits)
        ids = self.encoder.encode(text, add_special_tokens=add_special_tokens)
        return TokenizedPrompt(ids, (), self.served_by)

    def encode_many(self, texts: Sequence[str], *, add_special_tokens: bool = True) -> list[TokenizedPrompt]:
        """Of several plain completions; what the memo does not hold is encoded in parallel."""
        for place, text in enumerate(texts):
            check_text(text, self._limits, f"texts[{place}]")
        encoded = self.encoder.encode_many(texts, add_special_tokens=add_special_tokens)
        return [TokenizedPrompt(ids, (), self.served_by) for ids in encoded]

    def encode_chat(self, chat: Chat) -> TokenizedPrompt:
        """Of a chat completion."""
        text = self.render_chat(chat)
        try:
            ids = self.encoder.encode(text, add_special_tokens=chat.add_special_tokens)
        except InputError as error:
            raise name_surrogate(chat) or error from None
        if not chat.media:
            return TokenizedPrompt(ids, (), self.served_by)
        ids, features = expand(ids, self._templates.placeholder_ids, chat.media)
        return TokenizedPrompt(ids, tuple(features), self.served_by)

    def render_chat(self, chat: Chat) -> str:
        """The text that the chat template makes of a chat."""
        if self._renderer is None:
            assert self._refusal is not None
            raise type(self._refusal)(*self._refusal.args)
        return self._renderer.render(chat)

    def offsets(
        self, text: str, *, add_special_tokens: bool = True
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
        """Ids [n_tokens] and where in the text they come from [n_tokens, 2], in characters."""
        check_text(text, self._limits)
        return self.encoder.offsets(text, add_special_tokens=add_special_tokens)

    def is_current(self) -> bool:
        """False: a file has changed, come or gone since. Cost: 0.1 ms."""
        return stamp_of(self._place) == self._stamp

    def statistics(self) -> TokenizerStatistics:
        """How much the memo holds and helps, what is proven of it, and what is in doubt."""
        counts = self.encoder.statistics()
        if self._renderer is not None:
            counts |= self._renderer.statistics()
        exactness = self.encoder.exactness.reason
        if self.doubt:
            exactness = f"{exactness} In doubt: {self.doubt}.".strip()
        return TokenizerStatistics(
            model=self.model,
            served_by=self.served_by,
            exactness=exactness,
            counts=counts,
        )

    def close(self) -> None:
        """Frees the memo's memory. Calls that are under way, or still come, are answered all the same."""
        self.encoder.clear()


def _templates(files: TokenizerFiles, made: Effective) -> TemplateFiles:
    found = template_files(
        files.tokenizer_config,
        files.template,
        files.named_templates,
        special_tokens_map=files.special_tokens_map,
        processor_json=files.processor_config,
        config=files.model_config,
        file_names=files.names,
    )
    return msgspec.structs.replace(found, special_tokens=made.special_tokens)
