"""Drawing an SVG picture, element by element."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

FONT = "Inter, 'Helvetica Neue', 'Segoe UI', Arial, sans-serif"


class Svg:
    """A picture of `width` by `height` pixels; y grows downwards, later elements lie on top."""

    def __init__(self, width: int, height: int, *, title: str, description: str) -> None:
        self.width = width
        self.height = height
        self._elements = [f"<title>{escape(title)}</title>", f"<desc>{escape(description)}</desc>"]

    def rect(self, x: float, y: float, width: float, height: float, *, fill: str, radius: float = 0) -> None:
        self._add(
            "rect",
            x=x,
            y=y,
            width=max(width, 0),
            height=max(height, 0),
            rx=radius,
            fill=fill,
        )

    def frame(
        self, x: float, y: float, width: float, height: float, *, stroke: str, radius: float = 0
    ) -> None:
        self._add("rect", x=x, y=y, width=width, height=height, rx=radius, fill="none", stroke=stroke)

    def line(
        self, x1: float, y1: float, x2: float, y2: float, *, stroke: str, width: float = 1, dash: str = ""
    ) -> None:
        optional = {"stroke_dasharray": dash} if dash else {}
        self._add("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=stroke, stroke_width=width, **optional)

    def path(self, points: Iterable[tuple[float, float]], *, stroke: str, width: float = 2) -> None:
        """An open line through the points."""
        drawn = " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
        self._add(
            "polyline",
            points=drawn,
            fill="none",
            stroke=stroke,
            stroke_width=width,
            stroke_linejoin="round",
            stroke_linecap="round",
        )

    def area(self, points: Iterable[tuple[float, float]], *, fill: str, opacity: float) -> None:
        """A closed shape."""
        drawn = " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
        self._add("polygon", points=drawn, fill=fill, fill_opacity=opacity)

    def circle(self, x: float, y: float, radius: float, *, fill: str) -> None:
        self._add("circle", cx=x, cy=y, r=radius, fill=fill)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 13,
        fill: str,
        weight: int = 400,
        anchor: str = "start",
    ) -> None:
        """`y` is the baseline; `anchor` is start, middle or end."""
        attributes = _attributes(
            {"x": x, "y": y, "font_size": size, "font_weight": weight, "fill": fill, "text_anchor": anchor}
        )
        self._elements.append(f"<text {attributes}>{escape(text)}</text>")

    def render(self) -> str:
        """The whole picture as text."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{self.height}" '
            f'viewBox="0 0 {self.width} {self.height}" role="img" font-family="{FONT}">'
        )
        return "\n".join([head, *self._elements, "</svg>", ""])

    def _add(self, element: str, **attributes: float | str) -> None:
        self._elements.append(f"<{element} {_attributes(attributes)}/>")


def _attributes(attributes: dict[str, float | str]) -> str:
    return " ".join(
        f'{name.replace("_", "-")}="{escape(value) if isinstance(value, str) else _number(value)}"'
        for name, value in attributes.items()
    )


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
