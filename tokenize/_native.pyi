"""Native core of tokenizing: cuts texts into pieces, remembers their ids. Source: tokenize/native/."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

NO_LINES: int
"""Cut at added tokens only."""
LINES_BEFORE_TEXT: int
"""And behind a "\\n" where the next character is no white space."""
LINES_BEFORE_TEXT_NOT_SLASH: int
"""And behind a "\\n" where the next character is neither white space nor "/"."""
SINGLE_LINES: int
"""And behind a "\\n" that has a character that is no white space on both sides."""

NO_WORDS: int
"""Lines stay whole."""
WORDS_ONE_DIGIT: int
"""Lines of ASCII are cut as Qwen2's split does."""
WORDS_THREE_DIGITS: int
"""Lines of ASCII are cut as Llama 3's split does."""
WORDS_BY_CASE: int
"""Lines of ASCII are cut as o200k's split does."""

class Cutter:
    """Where texts are cut into pieces. Immutable.

    `added_tokens`: contents and ids; of those that begin leftmost the longest counts. `line_rule`: one of
    the four above; white space is Unicode's White_Space. `piece_bytes`: a stretch between added tokens that
    is longer is cut at the first line end at or beyond so many bytes from its begin that the rule allows, and
    again from there. `word_rule`: one of the four above; with words a stretch is cut at every allowed line
    end and lines of ASCII into words, whatever `piece_bytes` is. Raises InputError: an empty content, one
    twice, an id or rule out of range.
    """

    def __init__(
        self, added_tokens: Sequence[tuple[str, int]], line_rule: int, piece_bytes: int, word_rule: int = 0
    ) -> None: ...

class MemoStatistics:
    @property
    def pieces(self) -> int:
        """Held now, as are the next two."""
    @property
    def bytes(self) -> int:
        """All memory: texts, ids, table, rounding of the heap."""
    @property
    def tokens(self) -> int: ...
    @property
    def bytes_max(self) -> int: ...
    @property
    def hits(self) -> int:
        """Pieces that needed no encoding: held, or the same as an earlier one of their text."""
    @property
    def misses(self) -> int:
        """Pieces that were given out by `missing`."""
    @property
    def hit_bytes(self) -> int: ...
    @property
    def missed_bytes(self) -> int: ...
    @property
    def evicted(self) -> int:
        """Dropped to make room."""
    @property
    def refused(self) -> int:
        """Not remembered: larger than a sixteenth of `bytes_max`, or no memory."""

class Plan:
    """How one text becomes ids. One thread at a time."""

    @property
    def n_pieces(self) -> int:
        """Without added tokens."""
    @property
    def n_missing(self) -> int: ...
    def missing(self) -> list[str]:
        """Texts that the memo did not hold, in order, each once."""
    def ids(self, encoded: Sequence[Any]) -> npt.NDArray[np.uint32]:
        """All ids of the text [n_tokens], and the encoded pieces are remembered. Once only.

        `encoded`: the ids of each text of `missing`, in order: arrays, buffers of integers, lists of int.
        Raises InputError when their number differs, or an id is none.
        """

class SegmentMemo:
    """Remembers the ids of pieces of text. Any thread may call any method.

    `bytes_max`: of all its memory; 0: remembers nothing. `hash_seed`: 0 to 2^64 - 1, private: it keeps
    others from sending texts that fall into one slot. Belongs to one tokenizer and one cutter.
    """

    def __init__(self, bytes_max: int, hash_seed: int) -> None: ...
    def plan(self, cutter: Cutter, text: str) -> Plan:
        """Cut a text and look its pieces up.

        Raises InputError for a lone surrogate, with its place, and for 2^31 bytes of UTF-8 or more.
        """
    def clear(self) -> None:
        """Forget all; what plans under way still bring is not remembered."""
    def statistics(self) -> MemoStatistics: ...
