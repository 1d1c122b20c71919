"""The attributes and methods that a template may use, by type; everything else is unsafe to touch.

A method is a function of the budget, the object and the template's arguments. It answers as Python's own
does, or raises what that raises, or StoppedError where the result would not fit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2.runtime import LoopContext, Macro
from jinja2.utils import Cycler
from markupsafe import Markup

from kvatlas.tokenize.chat.templates.budget import BIG, Budget, hashed

Method = Callable[..., Any]


def _answers(name: str) -> Method:
    """A method whose result is a number or a truth."""

    def call(budget: Budget, text: str, /, *args: Any, **kwargs: Any) -> Any:
        if len(text) > BIG:
            budget.look()
        return getattr(text, name)(*args, **kwargs)

    return call


def _text(name: str) -> Method:
    """A method whose result is at most three times as long as the text (upper case of some letters)."""

    def call(budget: Budget, text: str, /, *args: Any, **kwargs: Any) -> str:
        return budget.text(getattr(text, name)(*args, **kwargs))

    return call


def _pieces(name: str) -> Method:
    """A method whose result is a list or tuple of pieces of the text."""

    def call(budget: Budget, text: str, /, *args: Any, **kwargs: Any) -> Any:
        n_chars = len(text)
        if n_chars > BIG:
            separator = args[0] if args else kwargs.get("sep")
            n_pieces = text.count(separator) if isinstance(separator, str) and separator else n_chars // 2
            # A piece is an object of some 50 bytes, and a split at lines or white space is not counted first.
            budget.allow(n_chars + 50 * n_pieces if isinstance(separator, str) else n_chars)
        result = getattr(text, name)(*args, **kwargs)
        budget.keep(result, n_chars + 56 * len(result))
        return result

    return call


def _padded(name: str) -> Method:
    """A method whose result is as long as its first argument says."""

    def call(budget: Budget, text: str, /, *args: Any, **kwargs: Any) -> str:
        if args and isinstance(args[0], int):
            budget.allow(args[0])
        return budget.text(getattr(text, name)(*args, **kwargs))

    return call


def replace(budget: Budget, text: str, /, old: Any, new: Any, count: Any = -1) -> str:
    if isinstance(old, str) and isinstance(new, str) and len(text) * len(new) > BIG:
        factor = 6 if isinstance(text, Markup) else 1  # it escapes what it is given
        budget.seen(len(text))
        budget.allow(len(text) + factor * text.count(old) * len(new))
    return budget.text(text.replace(old, new, count))


def join(budget: Budget, text: str, /, items: Any) -> str:
    pieces = items if isinstance(items, list) else list(items)
    factor = 6 if isinstance(text, Markup) else 1
    n_chars = sum(len(piece) for piece in pieces if isinstance(piece, str))
    budget.allow(factor * (n_chars + len(text) * len(pieces)))
    budget.tick(8 * len(pieces))
    return budget.text(text.join(pieces))


def _expand_tabs(budget: Budget, text: str, /, tabsize: int = 8) -> str:
    budget.allow(len(text) + text.count("\t") * max(int(tabsize), 0))
    return budget.text(text.expandtabs(tabsize))


def _compares(name: str) -> Method:
    """A method of a list or tuple that compares its items with the first argument."""

    def call(budget: Budget, items: Any, /, *args: Any, **kwargs: Any) -> Any:
        for value in (items, *args):
            budget.fit(value)
        return getattr(items, name)(*args, **kwargs)

    return call


def _copy(budget: Budget, value: Any, /) -> Any:
    return budget.items(value.copy())


def _get(budget: Budget, value: dict[Any, Any], /, key: Any, default: Any = None) -> Any:
    return value.get(hashed(key), default)


def _plain(name: str) -> Method:
    def call(budget: Budget, value: Any, /, *args: Any, **kwargs: Any) -> Any:
        return getattr(value, name)(*args, **kwargs)

    return call


def _changed(budget: Budget, loop: LoopContext, /, *values: Any) -> bool:
    return loop.changed(*map(budget.fit, values))


_ANSWERS = {"count", "endswith", "find", "index", "rfind", "rindex", "startswith"}
_ANSWERS |= {"isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "isidentifier", "islower", "isnumeric"}
_ANSWERS |= {"isprintable", "isspace", "istitle", "isupper"}
_TEXTS = {"capitalize", "casefold", "lower", "swapcase", "title", "upper"}
_TEXTS |= {"lstrip", "removeprefix", "removesuffix", "rstrip", "strip"}
_PIECES = {"partition", "rpartition", "rsplit", "split", "splitlines"}

_STR: dict[str, Method] = {
    **{name: _answers(name) for name in _ANSWERS},
    **{name: _text(name) for name in _TEXTS},
    **{name: _pieces(name) for name in _PIECES},
    **{name: _padded(name) for name in ("center", "ljust", "rjust", "zfill")},
    "expandtabs": _expand_tabs,
    "join": join,
    "replace": replace,
}

METHODS: dict[type, dict[str, Method]] = {
    str: _STR,
    Markup: {name: method for name, method in _STR.items() if name != "expandtabs"},
    dict: {**{name: _plain(name) for name in ("items", "keys", "values")}, "copy": _copy, "get": _get},
    list: {"copy": _copy, "count": _compares("count"), "index": _compares("index")},
    tuple: {"count": _compares("count"), "index": _compares("index")},
    range: {"count": _plain("count"), "index": _plain("index")},
    float: {"is_integer": _plain("is_integer")},
    LoopContext: {"changed": _changed, "cycle": _plain("cycle")},
    Cycler: {"next": _plain("next"), "reset": _plain("reset")},
}
"""Besides `str.format`, which needs the environment (calls.py)."""

ATTRIBUTES: dict[type, frozenset[str]] = {
    kind: frozenset(methods) | frozenset(extra.split())
    for kind, methods, extra in (
        (str, METHODS[str], "format"),
        (Markup, METHODS[Markup], ""),
        (dict, METHODS[dict], ""),
        (list, METHODS[list], ""),
        (tuple, METHODS[tuple], "grouper list"),  # the latter of filter `groupby`
        (range, METHODS[range], "start stop step"),
        (float, METHODS[float], ""),
        (
            LoopContext,
            METHODS[LoopContext],
            "depth depth0 first index index0 last length nextitem previtem revindex revindex0",
        ),
        (Cycler, METHODS[Cycler], "current"),
        (Macro, {}, "arguments caller catch_kwargs catch_varargs name"),
    )
}

LOOP_NAMES = ATTRIBUTES[LoopContext]
DICT_NAMES = frozenset(dir(dict))
"""`x.items` is the method of a dict before it is its item of this name."""


def is_allowed(value: Any, name: str) -> bool:
    """Whether a template may touch this attribute, which the value has."""
    kind: type = type(value)
    allowed = ATTRIBUTES.get(kind)
    if allowed is None:
        allowed = next((ATTRIBUTES[base] for base in (dict, tuple, list) if isinstance(value, base)), None)
    return allowed is not None and name in allowed
