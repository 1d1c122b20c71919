"""Cuts of a text and what a segment memo knows, in plain Python, character by character."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

NO_LINES, LINES_BEFORE_TEXT, LINES_BEFORE_TEXT_NOT_SLASH, SINGLE_LINES = range(4)


def is_space(character: str) -> bool:
    """Unicode's White_Space: what Python calls space, less four separators."""
    return character.isspace() and character not in "\x1c\x1d\x1e\x1f"


def n_bytes(text: str) -> int:
    return len(text.encode())


def added_at(added_tokens: Mapping[str, int], text: str, at: int) -> str | None:
    """The longest added token that begins there."""
    return max((token for token in added_tokens if text.startswith(token, at)), key=len, default=None)


def stretches(added_tokens: Mapping[str, int], text: str) -> list[str | int]:
    """Texts between added tokens, and the ids of these."""
    out: list[str | int] = []
    begin = at = 0
    while at < len(text):
        token = added_at(added_tokens, text, at)
        if token is None:
            at += 1
            continue
        out += [text[begin:at], added_tokens[token]]
        begin = at = at + len(token)
    return [part for part in [*out, text[begin:]] if part != ""]


def allows_cut(rule: int, text: str, at: int) -> bool:
    """Whether the rule lets a stretch be cut before text[at], which follows a line end."""
    before, after = text[at - 2 : at - 1], text[at]
    if rule == NO_LINES or is_space(after):
        return False
    if rule == LINES_BEFORE_TEXT_NOT_SLASH:
        return after != "/"
    return rule == LINES_BEFORE_TEXT or (before != "" and not is_space(before))


def pieces(text: str, rule: int, piece_bytes: int) -> list[str]:
    """A stretch between added tokens, cut at line ends."""
    out: list[str] = []
    while n_bytes(text) > piece_bytes:
        for at in range(1, len(text)):
            is_line_end = text[at - 1] == "\n" and n_bytes(text[:at]) >= piece_bytes
            if is_line_end and allows_cut(rule, text, at):
                break
        else:
            break
        out.append(text[:at])
        text = text[at:]
    return [*out, text]


def cut(added_tokens: Mapping[str, int], rule: int, piece_bytes: int, text: str) -> list[str | int]:
    """Pieces and ids of added tokens, in order."""
    out: list[str | int] = []
    for part in stretches(added_tokens, text):
        out += [part] if isinstance(part, int) else pieces(part, rule, piece_bytes)
    return out


@dataclass
class Memo:
    """A memo without a bound: what the native one may know."""

    ids: dict[str, list[int]] = field(default_factory=dict)
    generation: int = 0

    def missing(self, cuts: list[str | int]) -> list[str]:
        """What has to be encoded, each text once."""
        return list(dict.fromkeys(part for part in cuts if isinstance(part, str) and part not in self.ids))

    def remember(self, generation: int, text: str, ids: list[int]) -> None:
        if generation == self.generation:
            self.ids.setdefault(text, ids)

    def clear(self) -> None:
        self.ids.clear()
        self.generation += 1
