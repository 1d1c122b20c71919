"""Screens of contents show names as they are, whatever they are."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType

from kvatlas.cluster.commands.content_screen import diff_view, found_view
from kvatlas.index.dumps.diffing import DiffRow
from kvatlas.index.dumps.owners import LaneOwner
from kvatlas.index.dumps.searching import Found, FoundRow

EVIL = LaneOwner("[red]m\r\n", "\x1b]0;title\x07[link=x]pod[/]\u202e")
STORE = LaneOwner(store="\x9b2Jnfs")


def shown(view: RenderableType) -> str:
    out = io.StringIO()
    Console(file=out, width=200, force_terminal=False).print(view)
    return out.getvalue()


def test_names_from_a_dump_neither_steer_the_terminal_nor_are_markup() -> None:
    found = Found(2, [FoundRow(1, 2, EVIL, ("gpu",)), FoundRow(1, 2, STORE, ("disk",))])
    rows = [DiffRow(EVIL, "gpu", 1, 0, 0), DiffRow(STORE, "disk", 0, 1, 0)]
    for text in (shown(found_view(found)), shown(diff_view(rows, ("a", "b"), 10))):
        assert all(letter.isprintable() or letter == "\n" for letter in text), ascii(text)
        assert "\\x1b]0;title\\x07[link=x]pod[/]\\u202e" in text
        assert "[red]m\\r\\n" in text
        assert "\\x9b2Jnfs" in text
