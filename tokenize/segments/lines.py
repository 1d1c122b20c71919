r"""Ends of lines at which a piece can be cut further, for splits that are known exactly.

Let p be a place after a line feed, c the character at p, and S a split that looks for a regular expression
and isolates its matches. Cutting the text at p is exact when S, on the whole text, has a boundary at p, and
finds the same matches in the part before p and in the part after p as in the whole.

No expression here looks behind or is anchored, so what follows a boundary does not depend on what comes
before it: the part after p is always right. It remains to show the boundary, and that the part before p ends
in the same matches.

LINES_BEFORE_TEXT: c is no white space. In the expressions of that rule only these match a line feed:

* The tail `[\r\n]*` of the alternative for symbols. It is greedy and c is none of its characters, so a tail
  that has the line feed before p ends at p; as it does where the text ends at p.
* `\s*[\r\n]+` and `\s*[\r\n]`. Of the white space around it, which ends at p, `\s*` takes all and gives back
  until a line end is left for the rest: that is the line feed before p. So it ends at p; as it does where
  the text ends at p.
* `\s+(?!\S)` and `\s+` stand behind those, so they see only white space without a line end: none that
  touches p.

No other alternative matches a line feed, so none reaches over p, and none looks ahead as far as p.

LINES_BEFORE_TEXT_NOT_SLASH: the tail is `[\r\n/]*`. The same, where c is not "/" either.

SINGLE_LINES: c and the character before the line feed are no white space. In GPT-2's expression only the
last two alternatives match a line feed. What comes before it has no white space at its end, so a match ends
before the line feed. There `\s+(?!\S)` finds one character of white space with c behind it and fails; `\s+`
takes it, and ends at p. Where the text ends at p, `\s+(?!\S)` takes it: the same match.

Several splits in a row: each gets the pieces of the one before. A split whose matches have no line feed, and
that looks nowhere else, is the same on the parts as on the whole, as no match lies across p; the next split
then finds p inside of a piece, or between two. After a boundary at p, later splits see the parts anyway.

Normalizers: none, or NFC. NFC changes nothing across a line feed, which neither composes with its neighbours
nor is reordered around them, and it never makes white space or a slash of another character, nor the reverse
(tests/tokenize/segments/test_lines.py tries every character).

Whatever the model does with a piece of the split, it does to each alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvatlas.tokenize._native import (
    LINES_BEFORE_TEXT,
    LINES_BEFORE_TEXT_NOT_SLASH,
    NO_LINES,
    SINGLE_LINES,
)
from kvatlas.tokenize.segments.components import Component, stages

_SHORT_FORMS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_END = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE_WORD = r"[^\r\n\p{L}\p{N}]?"

_SYMBOLS, _SYMBOLS_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n]*", r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_PUNCTUATED = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""

QWEN2 = rf"{_SHORT_FORMS}|{_BEFORE_WORD}\p{{L}}+|\p{{N}}|{_SYMBOLS}|{_END}"
"""Qwen2 and Qwen3."""
LLAMA3 = rf"{_SHORT_FORMS}|{_BEFORE_WORD}\p{{L}}+|\p{{N}}{{1,3}}|{_SYMBOLS}|{_END}"
"""Llama 3 and many others."""
O200K = (
    rf"{_BEFORE_WORD}{_UPPER}*{_LOWER}+{_SHORT_FORMS}?|{_BEFORE_WORD}{_UPPER}+{_LOWER}*{_SHORT_FORMS}?"
    rf"|\p{{N}}{{1,3}}|{_SYMBOLS_SLASH}|{_END}"
)
"""gpt-oss."""

_BEFORE_TEXT = (
    QWEN2,
    LLAMA3,
    # Qwen3.5
    rf"{_SHORT_FORMS}|{_BEFORE_WORD}[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_END}",
    # cl100k as tiktoken has it
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+",
    # DeepSeek V3
    rf"{_PUNCTUATED}|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_END}",
)
_BEFORE_TEXT_NOT_SLASH = (
    O200K,
    # Mistral's tekken
    rf"{_BEFORE_WORD}{_UPPER}*{_LOWER}+|{_BEFORE_WORD}{_UPPER}+{_LOWER}*|\p{{N}}|{_SYMBOLS_SLASH}|{_END}",
)
_SINGLE = (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",)  # GPT-2
RULES: dict[str, int] = {
    **dict.fromkeys(_BEFORE_TEXT, LINES_BEFORE_TEXT),
    **dict.fromkeys(_BEFORE_TEXT_NOT_SLASH, LINES_BEFORE_TEXT_NOT_SLASH),
    **dict.fromkeys(_SINGLE, SINGLE_LINES),
}
_WITHOUT_LINE_FEED = frozenset(
    {r"\p{N}", r"\p{N}{1,3}", r"[0-9]", r"[0-9]{1,3}", r"[一-龥぀-ゟ゠-ヿ]+", r"[一-龥ࠀ-一가-퟿]+"}
)


def line_rule_of(definition: Mapping[str, Any]) -> int:
    """At which line ends a piece without added tokens can be cut, by a tokenizer's definition."""
    if any(normalizer["type"] != "NFC" for normalizer in stages(definition.get("normalizer"), "normalizers")):
        return NO_LINES
    if definition["model"]["type"] != "BPE":
        return NO_LINES
    splits = list(stages(definition.get("pre_tokenizer"), "pretokenizers"))
    # Byte-level mapping is the last step or none: before a split, it would change what that sees.
    if not splits or splits[-1]["type"] != "ByteLevel" or splits[-1]["add_prefix_space"]:
        return NO_LINES
    if any(split["type"] == "ByteLevel" for split in splits[:-1]):
        return NO_LINES
    for split in splits[:-1]:
        if not _has_no_line_feed(split):
            return _rule_of_split(split)
    return SINGLE_LINES if splits[-1].get("use_regex", True) else NO_LINES


def _has_no_line_feed(split: Component) -> bool:
    if split["type"] == "Digits":
        return True
    return isolated_regex(split) in _WITHOUT_LINE_FEED


def _rule_of_split(split: Component) -> int:
    return RULES.get(isolated_regex(split) or "", NO_LINES)


def isolated_regex(split: Component) -> str | None:
    """The expression of a split that isolates its matches; None: it does something else."""
    if split["type"] != "Split" or split["behavior"] != "Isolated" or split["invert"]:
        return None
    expression: str | None = split["pattern"].get("Regex")
    # Some files have the two characters themselves where others have their escapes: in a class, the same.
    return expression and expression.replace("\r", r"\r").replace("\n", r"\n")
