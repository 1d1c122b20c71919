"""Names that others have given, in the cells of a screen."""

from __future__ import annotations

from rich.text import Text

from kvatlas.index.errors import quoted


def name_cell(name: str) -> Text:
    """It is no markup, and what would steer a terminal is shown and not sent."""
    return Text(quoted(name), overflow="ellipsis")
