r"""Words that lines of ASCII can be cut into, for splits that are known exactly.

A split looks for a regular expression from left to right and isolates its matches; the model then gets
one match after the other, without its neighbours. Where a line is ASCII, `native/words.cpp` finds the same
matches (tests/tokenize/segments/test_words.py compares it with the library). It remains to show that a
match M, encoded alone, is one match again, the whole of M: then its ids alone are its ids in place.

In place some alternative A matched M, and every one before A did not match there. Alone:

* An alternative without a look ahead that matches a beginning of M matches it in place as well, so those
  before A match nothing alone either. A itself matches M, and being greedy takes all of it.
* `\s+(?!\S)` looks ahead. It may match alone where it did not in place: at the end of M, which was the end
  of nothing before. It then takes a whole M of white space, which is what had to be shown.

Normalizers: none or NFC, which leaves ASCII as it is. Lines are cut before (segments/lines.py), so the
white space at the end of one holds a line feed, and no look ahead reaches the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvatlas.tokenize._native import NO_WORDS, WORDS_BY_CASE, WORDS_ONE_DIGIT, WORDS_THREE_DIGITS
from kvatlas.tokenize.segments import lines
from kvatlas.tokenize.segments.components import stages

RULES: dict[str, int] = {
    lines.QWEN2: WORDS_ONE_DIGIT,
    lines.LLAMA3: WORDS_THREE_DIGITS,
    lines.O200K: WORDS_BY_CASE,
}


def word_rule_of(definition: Mapping[str, Any]) -> int:
    """How lines of ASCII can be cut into words, by the definition of a tokenizer whose lines can be cut."""
    splits = list(stages(definition.get("pre_tokenizer"), "pretokenizers"))
    if len(splits) != 2 or splits[1]["type"] != "ByteLevel" or splits[1].get("use_regex", True):
        return NO_WORDS
    return RULES.get(lines.isolated_regex(splits[0]) or "", NO_WORDS)
