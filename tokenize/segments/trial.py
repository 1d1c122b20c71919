"""Texts on which a proof is tried before anybody relies on it."""

from __future__ import annotations

from kvatlas.tokenize.segments.exactness import Exactness

_EDGES = ("", " ", "\n", "  \n\n", "a", "A1", "_", "'s", "/", "-", "́", "é", "日本", " \n", "🙂")
_LINES = (
    "def f(x):\n    return x / 2  # it's\r\n\r\n\tüber 1234567\n\n\n/etc/hosts\n",
    "  Ünïcode ｆｕｌｌ\nwidth\x0b\x0c\x85next\u2028line\u00a0\n e\u0301\n\u0301x\n日本語。\n123\n'S 'll\n",
    "It's 12 o'CLOCK: they'Re  at x=3.14;\n\tHTTPServer isn't (yet) v2//\n/api/v1 -- \"DON'T\"!\n",
    "!?\n/\n//\n+++\n---\nDon't\n\nend.   \nlast",
)


def trial_texts(exactness: Exactness, piece_bytes: int) -> tuple[str, ...]:
    """Some kilobytes with what tokenizers treat specially on both sides of cuts, and lines to be cut at."""
    tokens = [content for content, _ in exactness.cuts]
    chosen = dict.fromkeys((*tokens[:2], *tokens[-2:])) or {"": None}
    between = "".join(edge + token + edge for token in chosen for edge in _EDGES)
    lines = "".join(_LINES)
    if exactness.line_rule:
        lines *= 2 * piece_bytes // len(lines) + 1
    return (between, lines, f"{next(iter(chosen))}{lines}{next(reversed(chosen))} x{lines}")
