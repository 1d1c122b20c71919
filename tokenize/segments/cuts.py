"""Added tokens at which a text can be cut before the tokenizer sees it.

The library finds added tokens in two passes. First those that are not normalized, in the text itself:
leftmost-longest, without overlaps; what a match discards (`single_word` in the middle of a word) is used up
all the same. Then, in each piece between them, after normalization, the normalized ones. Cutting beforehand
at a set C of tokens gives the same pieces when

1. every token of C always matches: none of `single_word`, `lstrip`, `rstrip`;
2. no occurrence of a token of C can overlap an occurrence of a token outside of C, in any text: then the
   matches of C do not depend on the others, and the others' do not on C;
3. where tokens outside of C look at their neighbours (`single_word`: a word character, `lstrip` and `rstrip`:
   white space), the edge of a piece looks to them as the token of C did: as neither. So tokens of C then
   begin and end with punctuation.

Of the normalized tokens this holds too where there is no normalizer; with one they are found in another text
than the one that is cut, and stay inside the pieces.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

_EDGES = frozenset(string.punctuation) - {"_"}
_CONTENT_CHARS_MAX = 512
_SQUARES_MAX = 16_000_000  # the search for overlaps takes memory and time by the square of a content's length


class Cuts(NamedTuple):
    """Tokens to cut at, and whether there are others."""

    tokens: tuple[tuple[str, int], ...]
    """Content and id, in order of ids."""
    has_others: bool


def cuts_of(
    added_tokens: Sequence[Mapping[str, Any]], *, is_normalized: bool, keeps_special: bool = False
) -> Cuts:
    """The added tokens of a tokenizer's definition at which a text can be cut.

    `is_normalized`: there is a normalizer that changes texts. `keeps_special`: the tokenizer was told to
    encode special tokens as if they were text (`encode_special_tokens`).
    """
    has_neighbours = any(_looks_around(token) for token in added_tokens)

    def may_cut(token: Mapping[str, Any]) -> bool:
        content = token["content"]
        return not (
            not content
            or _looks_around(token)
            or (keeps_special and token["special"])
            or (token["normalized"] and is_normalized)
            or len(content) > _CONTENT_CHARS_MAX
            or (has_neighbours and not (content[0] in _EDGES and content[-1] in _EDGES))
        )

    chosen: set[str] = set()
    # The two passes of the library never see each other's tokens; to one cutter they are one set. So a
    # normalized token may overlap no other pass's token either, be that one chosen or not.
    raw = [token for token in added_tokens if not token["normalized"]]
    normalized = [token for token in added_tokens if token["normalized"]]
    chosen |= _settle({t["content"] for t in raw if may_cut(t)}, {t["content"] for t in raw})
    later = {t["content"] for t in normalized if may_cut(t)}
    later = _settle(later, {t["content"] for t in normalized}, also={t["content"] for t in raw})
    chosen |= later
    tokens = sorted(
        ((t["content"], t["id"]) for t in added_tokens if t["content"] in chosen), key=lambda t: t[1]
    )
    return Cuts(tuple(tokens), len(tokens) < len(added_tokens))


def _looks_around(token: Mapping[str, Any]) -> bool:
    return bool(token["single_word"] or token["lstrip"] or token["rstrip"])


def _settle(candidates: set[str], all_of_pass: set[str], *, also: Iterable[str] = ()) -> set[str]:
    """The candidates that can overlap no token that is not one of them."""
    while True:
        others = (all_of_pass - candidates) | set(also)
        clashing = _overlapping(candidates, others)
        if not clashing:
            return candidates
        candidates = candidates - clashing


def _overlapping(tokens: set[str], others: set[str]) -> set[str]:
    """Those of `tokens` that can share a character with one of `others` in some text."""
    if not tokens or not others:
        return set()
    if sum(len(token) ** 2 for token in tokens | others) > _SQUARES_MAX:
        return tokens
    starts = {other[:end] for other in others for end in range(1, len(other) + 1)}
    ends = {other[begin:] for other in others for begin in range(len(other))}
    insides = _insides(others, {len(token) for token in tokens})
    return {
        token
        for token in tokens
        if token in insides
        or any(token[begin:] in starts for begin in range(len(token)))
        or any(token[:end] in ends for end in range(1, len(token) + 1))
        or any(token[b:e] in others for b in range(len(token)) for e in range(b + 1, len(token) + 1))
    }


def _insides(others: set[str], lengths: set[int]) -> set[str]:
    """All parts of `others` that have one of these lengths."""
    return {
        other[begin : begin + length]
        for other in others
        for length in lengths
        for begin in range(len(other) - length + 1)
    }
