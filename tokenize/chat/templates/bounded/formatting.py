"""`str.format` and JSON, bounded."""

from __future__ import annotations

import json
import re
from _string import formatter_field_name_split  # type: ignore[import-not-found]
from collections.abc import Iterator, Mapping, Sequence
from string import Formatter
from typing import TYPE_CHECKING, Any

from kvatlas.tokenize.chat.templates.budget import Budget, StoppedError

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

_NUMBER = re.compile(r"\d+")
_PADDING_MAX = 256
"""Characters of an indent or a separator of JSON."""
_WRITTEN_FACTOR = 10
"""`repr` writes a character in up to ten."""

_plain_encoder = json.JSONEncoder(ensure_ascii=False)


class BoundedFormatter(Formatter):
    """`str.format` whose fields see what the template may see, and whose result fits."""

    def __init__(self, environment: SandboxedEnvironment, budget: Budget) -> None:
        self._environment = environment
        self._budget = budget
        self._n_chars = 0

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
        first, rest = formatter_field_name_split(field_name)
        value = self.get_value(first, args, kwargs)
        for is_attribute, name in rest:
            look = self._environment.getattr if is_attribute else self._environment.getitem
            value = look(value, name)
        return value, first

    def convert_field(self, value: Any, conversion: Any) -> Any:
        if conversion is not None:
            self._budget.weigh(value, _WRITTEN_FACTOR)
        return super().convert_field(value, conversion)

    def format_field(self, value: Any, format_spec: str) -> str:
        budget = self._budget
        for number in _NUMBER.findall(format_spec):
            budget.allow(int(number) if len(number) < 12 else budget.text_max + 1)
        if type(value) is not str:
            budget.weigh(value, _WRITTEN_FACTOR)
        text = str(super().format_field(value, format_spec))
        self._n_chars += len(text)
        budget.allow(self._n_chars)
        budget.seen(len(text))
        return text


def to_json(
    budget: Budget,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers' filter `tojson`: not jinja's own, which sorts keys and escapes for HTML."""
    budget.weigh(value, 6 if ensure_ascii else 1)
    if indent is None and separators is None and not (ensure_ascii or sort_keys):
        return budget.text(_plain_encoder.encode(value))
    _check_padding(indent, separators)
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    if indent is None and separators is None:
        return budget.text(encoder.encode(value))
    return budget.text("".join(_counted(encoder.iterencode(value), budget)))


def _check_padding(indent: int | str | None, separators: tuple[str, str] | None) -> None:
    widths = [indent] if isinstance(indent, int) else [] if indent is None else [len(indent)]
    widths += [len(separator) for separator in separators or ()]
    if any(width > _PADDING_MAX for width in widths):
        raise StoppedError(f"tojson with an indent or separator of more than {_PADDING_MAX} characters")


def _counted(pieces: Iterator[str], budget: Budget) -> Iterator[str]:
    n_chars = 0
    for piece in pieces:
        n_chars += len(piece)
        if n_chars > budget.text_max:
            budget.allow(n_chars)
        budget.tick(16 + len(piece))
        yield piece
