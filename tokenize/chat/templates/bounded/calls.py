"""Calls that a template makes: of methods, macros, loops and the functions of its environment."""

from __future__ import annotations

from datetime import datetime
from types import BuiltinMethodType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import SecurityError, TemplateRuntimeError
from jinja2.runtime import LoopContext, Macro, Undefined
from jinja2.utils import Cycler, Joiner, Namespace

from kvatlas.tokenize.chat.templates.bounded.formatting import BoundedFormatter
from kvatlas.tokenize.chat.templates.bounded.methods import METHODS
from kvatlas.tokenize.chat.templates.budget import DEPTH_MAX, Budget, StoppedError, hashed

if TYPE_CHECKING:
    from kvatlas.tokenize.chat.templates.environment import RenderContext

RANGE_MAX = 100_000
"""As jinja's own sandbox."""
_DATE_FORMAT_MAX = 1024
_MESSAGE_MAX = 2048


class RefusedChatError(TemplateRuntimeError):
    """The template has called raise_exception."""


def invoke(context: RenderContext, value: Any, name: str, /, *args: Any, **kwargs: Any) -> Any:
    """value.name(...)"""
    methods = METHODS.get(type(value))
    if methods is not None:
        method = methods.get(name)
        if method is not None:
            return method(context.budget, value, *args, **kwargs)
    return call(context, context.environment.getattr(value, name), *args, **kwargs)


def call(context: RenderContext, value: Any, /, *args: Any, **kwargs: Any) -> Any:
    """value(...)"""
    kind = type(value)
    if kind is Macro or kind is LoopContext:
        return _nested(context.budget, value, args, kwargs)
    if kind is FunctionType and value in FUNCTIONS:
        return value(context, *args, **kwargs)
    if kind is BuiltinMethodType or kind is MethodType:
        methods = METHODS.get(type(value.__self__), {})
        method = methods.get(value.__name__)
        if method is not None:
            return method(context.budget, value.__self__, *args, **kwargs)
        if type(value.__self__) is str and value.__name__ == "format":
            formatter = BoundedFormatter(context.environment, context.budget)
            return context.budget.text(formatter.vformat(value.__self__, args, kwargs))
    if kind is Joiner or isinstance(value, Undefined):
        return value(*args, **kwargs)
    if not callable(value):
        raise TypeError(f"{kind.__name__!r} object is not callable")
    raise SecurityError(f"an object of type {kind.__name__!r} is not safely callable")


def _nested(budget: Budget, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if budget.depth >= DEPTH_MAX:
        raise StoppedError(f"macros or recursive loops nested more than {DEPTH_MAX} deep")
    budget.depth += 1
    try:
        # A macro may keep them, as `varargs` and `kwargs`.
        if len(args) + len(kwargs) > 8:
            budget.items(args)
            budget.items(kwargs)
        return value(*args, **kwargs)
    finally:
        budget.depth -= 1


def raise_exception(context: RenderContext, message: Any) -> None:
    raise RefusedChatError(context.budget.written(message)[:_MESSAGE_MAX])


def strftime_now(context: RenderContext, format: str) -> str:
    if len(format) > _DATE_FORMAT_MAX:
        raise StoppedError(f"a date format of more than {_DATE_FORMAT_MAX} characters")
    return context.clock().strftime(format)


def _range(context: RenderContext, *args: int) -> range:
    result = range(*args)
    if len(result) > RANGE_MAX:
        raise OverflowError(f"expected a range of at most {RANGE_MAX} numbers")
    return result


def _dict(context: RenderContext, /, *args: Any, **kwargs: Any) -> dict[Any, Any]:
    if args and not isinstance(args[0], dict):
        args = ([(hashed(key), value) for key, value in args[0]], *args[1:])
    result = dict(*args, **kwargs)
    context.budget.keep(result, 100 * len(result))
    return result


def _namespace(context: RenderContext, /, *args: Any, **kwargs: Any) -> Namespace:
    return Namespace(_dict(context, *args, **kwargs))


def _cycler(context: RenderContext, *items: Any) -> Cycler:
    return Cycler(*context.budget.items(items))


def _joiner(context: RenderContext, sep: str = ", ") -> Joiner:
    return Joiner(sep)


GLOBALS: dict[str, Any] = {
    "cycler": _cycler,
    "dict": _dict,
    "joiner": _joiner,
    "namespace": _namespace,
    "raise_exception": raise_exception,
    "range": _range,
    "strftime_now": strftime_now,
}
FUNCTIONS = frozenset(GLOBALS.values())


def local_clock() -> datetime:
    return datetime.now()
