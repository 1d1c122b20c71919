"""The filters that a template may use: jinja's, bounded; `tojson` as transformers has it.

Left out, since no chat needs them and each would want a bound of its own: filesizeformat, pprint, random,
striptags, urlencode, urlize, wordcount, wordwrap, xmlattr.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jinja2 import filters as jinja
from jinja2.exceptions import FilterArgumentError
from jinja2.utils import pass_context
from markupsafe import Markup, escape

from kvatlas.tokenize.chat.templates.bounded import formatting, methods
from kvatlas.tokenize.chat.templates.bounded.list_filters import LIST_FILTERS
from kvatlas.tokenize.chat.templates.budget import Budget, StoppedError

if TYPE_CHECKING:
    from kvatlas.tokenize.chat.templates.environment import RenderContext as Context

_DIGITS_MAX = 4300
"""Of a text that becomes an integer, as Python's own limit."""
_PRECISION_MAX = 300


def _soft(budget: Budget, value: Any) -> str:
    """As markupsafe.soft_str: a text as it is, anything else written out."""
    return value if isinstance(value, str) else budget.written(value)


def _text_filter(name: str) -> Callable[..., Any]:
    @pass_context
    def apply(context: Context, s: Any) -> str:
        return context.budget.text(getattr(_soft(context.budget, s), name)())

    return apply


@pass_context
def do_center(context: Context, value: Any, width: int = 80) -> str:
    context.budget.allow(width)
    return context.budget.text(_soft(context.budget, value).center(width))


@pass_context
def do_escape(context: Context, value: Any) -> Markup:
    text = value if hasattr(value, "__html__") else _soft(context.budget, value)
    context.budget.allow(len(text))
    marked = escape(text)
    context.budget.text(marked)
    return marked


@pass_context
def do_forceescape(context: Context, value: Any) -> Markup:
    marked = escape(str(_soft(context.budget, value)))
    context.budget.text(marked)
    return marked


@pass_context
def do_format(context: Context, value: Any, *args: Any, **kwargs: Any) -> str:
    if args and kwargs:
        raise FilterArgumentError("can't handle positional and keyword arguments at the same time")
    return context.operators.percent(_soft(context.budget, value), kwargs or args)


@pass_context
def do_indent(context: Context, s: Any, width: Any = 4, first: bool = False, blank: bool = False) -> str:
    budget = context.budget
    n_chars = len(width) if isinstance(width, str) else int(width)
    text = _soft(budget, s)
    budget.allow(len(text) + (len(text.splitlines()) + 2) * n_chars * (6 if hasattr(text, "__html__") else 1))
    return budget.text(jinja.do_indent(text, width, first, blank))


@pass_context
def do_int(context: Context, value: Any, default: Any = 0, base: int = 10) -> Any:
    if isinstance(value, str) and len(value) > _DIGITS_MAX:
        raise StoppedError(f"a number of more than {_DIGITS_MAX} characters")
    return jinja.do_int(value, default, base)


@pass_context
def do_float(context: Context, value: Any, default: Any = 0.0) -> Any:
    context.budget.seen(len(value) if isinstance(value, str) else 0)
    return jinja.do_float(value, default)


@pass_context
def do_replace(context: Context, s: Any, old: Any, new: Any, count: Any = None) -> str:
    budget = context.budget
    text, was, becomes = map(budget.written, (s, old, new))
    return methods.replace(budget, text, was, becomes, -1 if count is None else count)


@pass_context
def do_round(context: Context, value: Any, precision: int = 0, method: str = "common") -> Any:
    if method not in ("common", "ceil", "floor"):
        raise FilterArgumentError("method must be common, ceil or floor")
    if abs(precision) > _PRECISION_MAX:
        raise StoppedError(f"a precision of more than {_PRECISION_MAX} digits")
    if method == "common":
        return round(value, precision)
    return getattr(math, method)(value * 10**precision) / 10**precision


@pass_context
def do_string(context: Context, value: Any) -> str:
    return value if isinstance(value, Markup) else _soft(context.budget, value)


@pass_context
def do_title(context: Context, s: Any) -> str:
    text = _soft(context.budget, s)
    context.budget.tick(8 * len(text))
    return context.budget.text(jinja.do_title(text))


@pass_context
def do_trim(context: Context, value: Any, chars: Any = None) -> str:
    return context.budget.text(_soft(context.budget, value).strip(chars))


@pass_context
def do_truncate(
    context: Context, s: str, length: int = 255, killwords: bool = False, end: str = "...", leeway: Any = None
) -> str:
    return context.budget.text(jinja.do_truncate(context.environment, s, length, killwords, end, leeway))


@pass_context
def do_tojson(context: Context, value: Any, *args: Any, **kwargs: Any) -> str:
    return formatting.to_json(context.budget, value, *args, **kwargs)


FILTERS: dict[str, Callable[..., Any]] = {
    **LIST_FILTERS,
    "abs": abs,
    "attr": jinja.do_attr,
    "capitalize": _text_filter("capitalize"),
    "center": do_center,
    "d": jinja.do_default,
    "default": jinja.do_default,
    "e": do_escape,
    "escape": do_escape,
    "float": do_float,
    "forceescape": do_forceescape,
    "format": do_format,
    "indent": do_indent,
    "int": do_int,
    "lower": _text_filter("lower"),
    "replace": do_replace,
    "round": do_round,
    "safe": jinja.do_mark_safe,
    "string": do_string,
    "title": do_title,
    "tojson": do_tojson,
    "trim": do_trim,
    "truncate": do_truncate,
    "upper": _text_filter("upper"),
}
