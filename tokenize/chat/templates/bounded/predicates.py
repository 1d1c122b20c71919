"""The tests (`is ...`) that a template may use: jinja's; those that compare or write out weigh first.

Those of INLINE cost no call at all (generator.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jinja2 import tests as jinja
from jinja2.utils import pass_context

from kvatlas.tokenize.chat.templates.budget import hashed

if TYPE_CHECKING:
    from kvatlas.tokenize.chat.templates.environment import RenderContext as Context

_TESTS: dict[str, Any] = dict(jinja.TESTS)
_COMPARISONS = {"!=", "<", "<=", "==", ">", ">=", "eq", "equalto", "ge", "greaterthan", "gt", "le"}
_COMPARISONS |= {"lessthan", "lt", "ne"}
_SIMPLE = {"boolean", "callable", "defined", "divisibleby", "escaped", "even", "false", "float"}
_SIMPLE |= {"integer", "iterable", "mapping", "none", "number", "odd", "sameas", "sequence", "string"}
_SIMPLE |= {"true", "undefined"}


def _comparing(test: Callable[..., Any]) -> Callable[..., Any]:
    @pass_context
    def apply(context: Context, value: Any, other: Any) -> Any:
        return test(context.budget.fit(value), context.budget.fit(other))

    return apply


def _writing(test: Callable[..., Any]) -> Callable[..., Any]:
    @pass_context
    def apply(context: Context, value: Any) -> Any:
        return test(context.budget.written(value))

    return apply


def _naming(test: Callable[..., Any]) -> Callable[..., Any]:
    @pass_context
    def apply(context: Context, value: Any) -> Any:
        return test(context.environment, hashed(value))

    return apply


@pass_context
def _in(context: Context, value: Any, seq: Any) -> bool:
    return context.operators.holds(value, seq)


TESTS: dict[str, Callable[..., Any]] = {
    **{name: _TESTS[name] for name in _SIMPLE},
    **{name: _comparing(_TESTS[name]) for name in _COMPARISONS},
    **{name: _writing(_TESTS[name]) for name in ("lower", "upper")},
    **{name: _naming(_TESTS[name]) for name in ("filter", "test")},
    "in": _in,
}

INLINE: dict[str, str] = {
    "defined": "(not isinstance({0}, Undefined))",
    "false": "({0} is False)",
    "none": "({0} is None)",
    "string": "isinstance({0}, str)",
    "true": "({0} is True)",
    "undefined": "isinstance({0}, Undefined)",
}
