"""Cutting a text before a tokenizer sees it, written as simply as possible."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer

# What the White_Space property of Unicode holds.
WHITE_SPACE = (
    "\t\n\x0b\x0c\r \x85\xa0\u1680"
    + "".join(map(chr, range(0x2000, 0x200B)))
    + "\u2028\u2029\u202f\u205f\u3000"
)


def cut_at_tokens(text: str, tokens: Iterable[str]) -> list[str]:
    """Tokens and what lies between them, in order; of tokens that begin leftmost the longest."""
    longest_first = sorted(tokens, key=len, reverse=True)
    if not longest_first:
        return [text] if text else []
    return [part for part in re.split(f"({'|'.join(map(re.escape, longest_first))})", text) if part]


def line_places(text: str, line_rule: int) -> list[int]:
    """Places in a piece where a line rule allows a cut."""
    places = []
    for place in range(1, len(text)):
        behind = text[place]
        before = text[place - 2] if place > 1 else "x"
        if (
            text[place - 1] == "\n"
            and behind not in WHITE_SPACE
            and (
                line_rule == 1
                or (line_rule == 2 and behind != "/")
                or (line_rule == 3 and before not in WHITE_SPACE)
            )
        ):
            places.append(place)
    return places


def cut_at_lines(text: str, line_rule: int) -> list[str]:
    """At every place that the rule allows."""
    places = [0, *line_places(text, line_rule), len(text)]
    return [text[begin:end] for begin, end in itertools.pairwise(places)]


def encode_in_pieces(
    tokenizer: Tokenizer, text: str, cuts: Sequence[tuple[str, int]], line_rule: int = 0
) -> list[int]:
    """Token ids of the pieces, each encoded by the library alone, one behind the other."""
    ids_of = dict(cuts)
    ids: list[int] = []
    for part in cut_at_tokens(text, ids_of):
        if part in ids_of:
            ids.append(ids_of[part])
            continue
        for piece in cut_at_lines(part, line_rule):
            ids += tokenizer.encode(piece, add_special_tokens=False).ids
    return ids
