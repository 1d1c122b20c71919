"""Whether, and where, a text can be cut so that the parts have the same token ids as the whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from kvatlas.tokenize._native import NO_LINES, NO_WORDS
from kvatlas.tokenize.segments.additions import Additions, additions_of
from kvatlas.tokenize.segments.components import doubt_of, stages
from kvatlas.tokenize.segments.cuts import cuts_of
from kvatlas.tokenize.segments.lines import line_rule_of
from kvatlas.tokenize.segments.words import word_rule_of


class Exactness(msgspec.Struct, frozen=True, kw_only=True):
    """Where a tokenizer's texts can be cut."""

    is_proven: bool
    """False: texts are encoded whole."""
    reason: str
    """What is cut and why not more, in a sentence or two."""
    cuts: tuple[tuple[str, int], ...] = ()
    """Added tokens, content and id."""
    line_rule: int = NO_LINES
    """Ends of lines between them (segments/lines.py)."""
    word_rule: int = NO_WORDS
    """Words within lines of ASCII (segments/words.py)."""
    adds: Additions | None = None
    """What `add_special_tokens` adds. None: nobody knows; such texts are encoded whole."""
    is_disabled: bool = False
    """It was proven, and in operation an answer was found to be wrong."""

    @property
    def is_usable(self) -> bool:
        return self.is_proven and not self.is_disabled


def prove(definition: Mapping[str, Any]) -> Exactness:
    """Where texts of a tokenizer can be cut, by its definition: a parsed `tokenizer.json`.

    Components must be as the library understands them, all their fields present; `vocab` and `merges` are
    not looked at. Whatever is not known to be exact is not proven. Raises nothing: a definition that makes
    no sense proves nothing.
    """
    try:
        return _prove(definition)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        return _unproven(f"Its definition cannot be understood ({type(error).__name__}: {error}).")


def _prove(definition: Mapping[str, Any]) -> Exactness:
    if doubt := doubt_of(definition):
        return _unproven(doubt)
    adds = additions_of(definition.get("post_processor"))
    if adds is None:
        kind = definition["post_processor"].get("type")
        return _unproven(f"Post-processor {kind} may change the token ids of the text.")
    cuts = cuts_of(
        definition.get("added_tokens") or (),
        is_normalized=any(True for _ in stages(definition.get("normalizer"), "normalizers")),
        keeps_special=bool(definition.get("encode_special_tokens")),
    )
    # A token that stays inside of a piece could lie across the end of a line.
    line_rule = NO_LINES if cuts.has_others else line_rule_of(definition)
    word_rule = NO_WORDS if line_rule == NO_LINES else word_rule_of(definition)
    if not cuts.tokens and line_rule == NO_LINES:
        return _unproven("It has no added token to cut at, and no line end is known to be safe.")
    return Exactness(
        is_proven=True,
        reason=_reason(len(cuts.tokens), cuts.has_others, line_rule, word_rule),
        cuts=cuts.tokens,
        line_rule=line_rule,
        word_rule=word_rule,
        adds=adds,
    )


def _reason(n_cuts: int, has_others: bool, line_rule: int, word_rule: int) -> str:
    where = f"Cut at {n_cuts} added tokens"
    if word_rule != NO_WORDS:
        return f"{where}, at ends of lines, and into words where a line is ASCII."
    if line_rule != NO_LINES:
        return f"{where} and at ends of lines."
    if has_others:
        return f"{where}; others are normalized, look at their neighbours or overlap, so lines stay whole."
    return f"{where}; between them pieces stay whole, as the pre-tokenizer is none whose lines are known."


def _unproven(reason: str) -> Exactness:
    return Exactness(is_proven=False, reason=f"Texts are encoded whole: {reason[0].lower()}{reason[1:]}")
