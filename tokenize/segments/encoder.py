"""Token ids of texts, of which parts have been seen before."""

from __future__ import annotations

import contextlib
import itertools
import logging
import random
import secrets
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from kvatlas.index.errors import TokenizerError
from kvatlas.tokenize import _native
from kvatlas.tokenize.segments.additions import Additions
from kvatlas.tokenize.segments.definition import definition_of
from kvatlas.tokenize.segments.exactness import Exactness, prove
from kvatlas.tokenize.segments.plain import Ids, PlainEncoder
from kvatlas.tokenize.segments.trial import trial_texts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_WORDS_SHARE = 8
"""One part in so many of `memo_bytes_max` is for words."""
_BY_WORDS_CHARS_MAX = 256 << 10
"""More new text than that goes to the library in pieces: its words would be too many objects."""
_ALWAYS_CHECKED = 3  # answers, before a share of them is enough
_CHECKED_CHARS_MAX = 1 << 20
"""Longer texts are not compared: encoded whole they would take hundreds of bytes of memory a token."""
_log = logging.getLogger(__name__)


class SegmentEncoder:
    """Encodes a text piece by piece and remembers the pieces: of a chat's next turn, only that is encoded.
    What is new is encoded word by word, where words are known, and words are remembered as well.

    Where the tokenizer's definition does not prove that pieces have the ids of the whole, texts are encoded
    whole (`exactness` says why). Where it does, the proof is tried on a few texts at the start, and on a
    share of all answers; should one be wrong, texts are encoded whole from then on.

    Any thread may call any method. The GIL is released while the library encodes, and while texts of 256 KiB
    or more are cut and looked up.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        name: str,
        memo_bytes_max: int,
        check_share: float,
        piece_bytes: int = 2048,
    ) -> None:
        """Takes truncation and padding off the tokenizer, which is not to be changed by anybody afterwards.

        `name` is what errors and the log call it. `memo_bytes_max` 0: nothing is remembered; pieces are still
        encoded in parallel. `check_share`: of answers that are compared with a plain encoding, 0 to 1; texts
        of more than a million characters are not. `piece_bytes`: from this length on a piece is cut at the
        next end of a line, where that is exact. Between 1 000 and 10 000 no difference can be measured.

        Raises TokenizerError where the library would not come to an end on the tokenizer.
        """
        self._plain = PlainEncoder(tokenizer, name=name)
        self._name = name
        self._exactness = prove(definition_of(tokenizer))
        self._cutter = _native.Cutter(self._exactness.cuts, self._exactness.line_rule, piece_bytes)
        words_bytes_max = memo_bytes_max // _WORDS_SHARE if self._exactness.word_rule else 0
        self._memo = _native.SegmentMemo(memo_bytes_max - words_bytes_max, secrets.randbits(64))
        self._words = _native.SegmentMemo(words_bytes_max, secrets.randbits(64))
        self._has_words = words_bytes_max > 0
        self._word_cutter = _native.Cutter((), self._exactness.line_rule, 1, self._exactness.word_rule)
        self._check_share = check_share
        self._answers = itertools.count()
        self._lock = threading.Lock()
        self._counts: dict[str, int] = dict.fromkeys(("answers", "encoded_whole", "checked", "mismatches"), 0)
        self._try_out(piece_bytes)

    @property
    def exactness(self) -> Exactness:
        """What is cut, and why not more; after a mismatch, that."""
        return self._exactness

    def encode(self, text: str, *, add_special_tokens: bool) -> Ids:
        """Token ids of a text [n_tokens], those that the tokenizer itself gives.

        Raises InputError for what is no text (a lone surrogate), and TokenizerError where the tokenizer
        refuses it.
        """
        return self.encode_many([text], add_special_tokens=add_special_tokens)[0]

    def encode_many(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[Ids]:
        """As `encode`, of several texts; what is new in all of them is encoded at once."""
        if self._exactness.is_usable:
            with contextlib.suppress(TokenizerError):  # then it is the whole text that counts
                answers = self._encode_pieces(self._memo, texts, add_special_tokens)
                if not self._is_wrong(texts, answers, add_special_tokens):
                    self._count("answers", len(texts))
                    return answers
        answers = self._plain.encode_many(texts, add_special_tokens=add_special_tokens)
        self._count("answers", len(texts))
        self._count("encoded_whole", len(texts))
        return answers

    def encode_plain(self, text: str, *, add_special_tokens: bool) -> Ids:
        """As `encode`, of the whole text by the library itself."""
        return self._plain.encode(text, add_special_tokens=add_special_tokens)

    def offsets(self, text: str, *, add_special_tokens: bool) -> tuple[Ids, Ids]:
        """Token ids [n_tokens], and where each begins and ends in the text [n_tokens, 2], in characters.

        The whole text is encoded. Raises as `encode` does.
        """
        return self._plain.offsets(text, add_special_tokens=add_special_tokens)

    def clear(self) -> None:
        """Forget all pieces and words."""
        self._memo.clear()
        self._words.clear()

    def statistics(self) -> dict[str, int]:
        """Counts since the start, and what the memos of pieces (`memo_...`) and words (`words_...`) hold."""
        fields = ("pieces", "bytes", "tokens", "bytes_max", "hits", "misses", "hit_bytes", "missed_bytes")
        with self._lock:
            counts = dict(self._counts)
        for name, memo in (("memo", self._memo.statistics()), ("words", self._words.statistics())):
            counts |= {f"{name}_{n}": int(getattr(memo, n)) for n in (*fields, "evicted", "refused")}
        return counts

    def _encode_pieces(
        self, memo: _native.SegmentMemo, texts: Sequence[str], add_special_tokens: bool
    ) -> list[Ids]:
        answers = _put_together(memo, self._cutter, texts, self._encode_new)
        return [_with(self._exactness.adds, ids) for ids in answers] if add_special_tokens else answers

    def _encode_new(self, pieces: Sequence[str]) -> list[Ids]:
        """Pieces that were not seen before: word by word where words are known, else by the library."""
        if self._has_words and sum(map(len, pieces)) <= _BY_WORDS_CHARS_MAX:
            return _put_together(self._words, self._word_cutter, pieces, self._encode_plainly)
        return self._encode_plainly(pieces)

    def _encode_plainly(self, texts: Sequence[str]) -> list[Ids]:
        return self._plain.encode_many(texts, add_special_tokens=False)

    def _is_wrong(self, texts: Sequence[str], answers: Sequence[Ids], add_special_tokens: bool) -> bool:
        """Whether one of the answers that are compared with a plain encoding differs from it."""
        for text, ids in zip(texts, answers, strict=True):
            if len(text) > _CHECKED_CHARS_MAX:
                continue
            if next(self._answers) < _ALWAYS_CHECKED or random.random() < self._check_share:
                plain = self._plain.encode(text, add_special_tokens=add_special_tokens)
                self._count("checked")
                if not np.array_equal(plain, ids):
                    self._count("mismatches")
                    self._disable(f"at token {_first_difference(plain, ids)} of {len(plain)}")
                    return True
        return False

    def _disable(self, where: str) -> None:
        # Of the text itself nothing is said: prompts do not belong into logs.
        with self._lock:
            if self._exactness.is_disabled:
                return
            before = self._exactness.reason
            reason = f"Texts are encoded whole: an answer made of pieces differed {where}. Before: {before}"
            self._exactness = msgspec.structs.replace(self._exactness, is_disabled=True, reason=reason)
        _log.error("tokenizer %s: %s", self._name, reason)
        self.clear()

    def _try_out(self, piece_bytes: int) -> None:
        """A library that behaves otherwise than the one read shows itself here, not on somebody's prompt."""
        if not self._exactness.is_usable:
            return
        nothing = _native.SegmentMemo(0, 0)
        for text, adds in itertools.product(trial_texts(self._exactness, piece_bytes), (False, True)):
            try:
                plain = self._plain.encode(text, add_special_tokens=adds)
            except TokenizerError:
                continue  # a vocabulary without an unknown token; such a text has no ids to compare
            try:
                [ids] = self._encode_pieces(nothing, [text], adds)
            except TokenizerError:
                ids = plain[:0]
            if not np.array_equal(plain, ids):
                self._disable("on a text of the trial")
                return

    def _count(self, what: str, by: int = 1) -> None:
        with self._lock:
            self._counts[what] += by


def _put_together(
    memo: _native.SegmentMemo,
    cutter: _native.Cutter,
    texts: Sequence[str],
    encode_new: Callable[[Sequence[str]], list[Ids]],
) -> list[Ids]:
    """Ids of texts out of those of their parts; `encode_new` has those that the memo does not hold."""
    plans = [memo.plan(cutter, text) for text in texts]
    # Of a part that several texts have, one is encoded.
    parts = list(dict.fromkeys(part for plan in plans if plan.n_missing for part in plan.missing()))
    encoded = dict(zip(parts, encode_new(parts), strict=True)) if parts else {}
    return [plan.ids([encoded[p] for p in plan.missing()] if plan.n_missing else ()) for plan in plans]


def _with(adds: Additions | None, ids: Ids) -> Ids:
    if adds is None or not (adds.before or adds.behind):
        return ids
    return np.concatenate((np.array(adds.before, np.uint32), ids, np.array(adds.behind, np.uint32)))


def _first_difference(one: Ids, other: Ids) -> int:
    common = min(len(one), len(other))
    differing = np.flatnonzero(one[:common] != other[:common])
    return int(differing[0]) if len(differing) else common
