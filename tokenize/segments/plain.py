"""A tokenizer of the `tokenizers` library, called so that nothing of it gets out but ids and clear errors."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kvatlas.index.errors import InputError, TokenizerError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Ids = npt.NDArray[np.uint32]
_BATCH_CHARS = 1 << 20
"""Of the library's own objects, 100 to 300 bytes a token, only those of so much text live at a time (or of
one text that is longer)."""
_TEXT_CHARS = 128
"""What a text counts besides its characters: the library's object for one takes half a kilobyte at least."""

_ALONE_TEXTS, _ALONE_CHARS = 4, 400
"""So few texts are encoded one after the other, in the calling thread, where those beside the longest hold
fewer characters than that: waking the library's threads takes 50 us, and longer on a busy machine."""


class PlainEncoder:
    """Encodes texts as the library does, several at once on its threads and without the GIL.

    Any thread may call any method. All raise InputError for what is no text, and TokenizerError where the
    tokenizer refuses a text.
    """

    def __init__(self, tokenizer: Tokenizer, *, name: str) -> None:
        """Takes truncation and padding off the tokenizer: a prompt is what it is.

        Raises TokenizerError where the library would not come to an end.
        """
        _check_added_tokens(tokenizer, name)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._name = name

    def encode(self, text: str, *, add_special_tokens: bool) -> Ids:
        """Token ids of a text [n_tokens]."""
        return self.encode_many([text], add_special_tokens=add_special_tokens)[0]

    def encode_many(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[Ids]:
        """Token ids of each text."""
        return [
            _array(encoding.ids)
            for batch in _batches(texts)
            for encoding in self._call("encode_batch_fast", batch, add_special_tokens)
        ]

    def offsets(self, text: str, *, add_special_tokens: bool) -> tuple[Ids, Ids]:
        """Token ids [n_tokens], and where each lies in the text [n_tokens, 2], in characters.

        An added special token of the post-processor lies at (0, 0).
        """
        if not isinstance(text, str):
            _check_text(text)
        encoding = self._call("encode", text, add_special_tokens)
        offsets = np.array(encoding.offsets, np.uint32).reshape(-1, 2)
        return _array(encoding.ids), offsets

    def _call(self, method: str, texts: str | list[str], add_special_tokens: bool) -> Any:
        try:
            return getattr(self._tokenizer, method)(texts, add_special_tokens=add_special_tokens)
        except TypeError:
            for text in texts if method == "encode_batch_fast" else [texts]:
                _check_text(text)
            raise
        except BaseException as error:
            # A panic of the library is a BaseException: it would end the thread, not the request.
            if isinstance(error, Exception) or type(error).__name__ == "PanicException":
                raise TokenizerError(f"{self._name}: the tokenizer refuses a text: {error}") from error
            raise


def _check_text(text: object) -> None:
    """Raises InputError with the place of what is no Unicode text, in the words of `_native`."""
    if not isinstance(text, str):
        raise InputError(f"text: expected a str, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        place, surrogate = error.start, ord(text[error.start])
        raise InputError(
            f"text[{place}]: expected text that UTF-8 can encode, got the lone surrogate U+{surrogate:04X}"
        ) from None


def _check_added_tokens(tokenizer: Tokenizer, name: str) -> None:
    """Looking for nothing, the library finds it everywhere: it panics, or loops for ever with the GIL."""
    if tokenizer.normalizer is None:
        return
    for token in tokenizer.get_added_tokens_decoder().values():
        if token.normalized and not tokenizer.normalizer.normalize_str(token.content):
            raise TokenizerError(
                f"{name}: added token {token.content!r} becomes nothing when it is normalized"
            )


def _array(ids: list[int]) -> Ids:
    return np.frombuffer(array("I", ids), np.uint32)  # a third of the time that numpy takes for a list


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    if len(texts) <= _ALONE_TEXTS:
        lengths = sorted(map(_length, texts))
        if sum(lengths[:-1]) < _ALONE_CHARS:
            yield from ([text] for text in texts)
            return
    batch: list[str] = []
    n_chars = 0
    for text in texts:
        n_more = _length(text) + _TEXT_CHARS
        if batch and n_chars + n_more > _BATCH_CHARS:
            yield batch
            batch, n_chars = [], 0
        batch.append(text)
        n_chars += n_more
    if batch:
        yield batch


def _length(text: str) -> int:
    if not isinstance(text, str):  # the library would take two texts for a pair
        _check_text(text)
    return len(text)
