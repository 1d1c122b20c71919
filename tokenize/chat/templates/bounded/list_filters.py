"""The filters of a template that give or take lists: jinja's, bounded.

Where jinja's filter gives a generator these give an iterator over a list: as true as a generator, as
short-lived, and no deeper however often it is filtered again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby as groups_of
from typing import TYPE_CHECKING, Any

from jinja2 import filters as jinja
from jinja2.exceptions import FilterArgumentError
from jinja2.runtime import Undefined
from jinja2.utils import pass_context

from kvatlas.tokenize.chat.templates.bounded import methods
from kvatlas.tokenize.chat.templates.budget import Budget, hashed

if TYPE_CHECKING:
    from kvatlas.tokenize.chat.templates.environment import RenderContext as Context


def _ticked(context: Context, values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        context.budget.tick(64)
        yield value


def _list(budget: Budget, values: Iterable[Any]) -> list[Any]:
    """A list of them, made in pieces that look at the clock."""
    if isinstance(values, (str, list, tuple, dict, range)):
        budget.allow(8 * len(values))
        result = list(values)
    else:
        result = []
        for value in values:
            budget.tick(8)
            result.append(value)
    budget.items(result)
    return result


def _getter(context: Context, attribute: Any, default: Any = None) -> Callable[[Any], Any]:
    """jinja's dotted paths: `a.b.0`."""
    if attribute is None:
        return lambda item: item
    parts = (
        [int(part) if part.isdigit() else part for part in attribute.split(".")]
        if isinstance(attribute, str)
        else [attribute]
    )

    def get(item: Any) -> Any:
        for part in parts:
            item = context.environment.getitem(item, part)
            if default is not None and isinstance(item, Undefined):
                item = default
        return item

    return get


def _sort_key(
    context: Context, attribute: Any, case_sensitive: bool, default: Any = None
) -> Callable[[Any], Any]:
    get, budget = _getter(context, attribute, default), context.budget

    def key(item: Any) -> Any:
        budget.tick(64)
        value = budget.fit(get(item))
        return value.lower() if isinstance(value, str) and not case_sensitive else value

    return key


@pass_context
def do_batch(context: Context, value: Any, linecount: int, fill_with: Any = None) -> Iterator[list[Any]]:
    budget = context.budget
    lines: list[list[Any]] = []
    line: list[Any] = []
    for item in _ticked(context, value):
        if len(line) == linecount:
            lines.append(budget.items(line))
            line = []
        line.append(item)
    if line:
        if fill_with is not None and len(line) < linecount:
            budget.allow(8 * linecount)
            line += [fill_with] * (linecount - len(line))
        lines.append(budget.items(line))
    return iter(budget.items(lines))


@pass_context
def do_dictsort(
    context: Context, value: Any, case_sensitive: bool = False, by: str = "key", reverse: bool = False
) -> list[Any]:
    if by not in ("key", "value"):
        raise FilterArgumentError('You can only sort by either "key" or "value"')
    key = _sort_key(context, 0 if by == "key" else 1, case_sensitive)
    return list(context.budget.items(sorted(value.items(), key=key, reverse=reverse)))


@pass_context
def do_groupby(
    context: Context, value: Any, attribute: Any, default: Any = None, case_sensitive: bool = False
) -> list[Any]:
    key = _sort_key(context, attribute, case_sensitive, default)
    get = _getter(context, attribute, default)
    budget = context.budget
    groups = [_list(budget, group) for _, group in groups_of(sorted(_list(budget, value), key=key), key)]
    # The key is the first value's own, not in lower case. The type has `.grouper` and `.list`.
    return list(budget.items([jinja._GroupTuple(get(group[0]), group) for group in groups]))


@pass_context
def do_join(context: Context, value: Any, d: Any = "", attribute: Any = None) -> str:
    budget = context.budget
    items = _list(budget, value)
    if attribute is not None:
        items = list(map(_getter(context, attribute), items))
    return methods.join(budget, budget.written(d), list(map(budget.written, items)))


@pass_context
def do_items(context: Context, value: Any) -> Iterator[Any]:
    if isinstance(value, Undefined):
        return iter(())
    if not isinstance(value, dict):
        raise TypeError("Can only get item pairs from a mapping.")
    return iter(value.items())


@pass_context
def do_list(context: Context, value: Any) -> list[Any]:
    return _list(context.budget, value)


@pass_context
def do_map(context: Context, value: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
    if not value:
        return iter(())
    if not args and "attribute" in kwargs:
        get = _getter(context, kwargs.pop("attribute"), kwargs.pop("default", None))
        if kwargs:
            raise FilterArgumentError(f"Unexpected keyword argument {next(iter(kwargs))!r}")
        return iter([get(item) for item in _ticked(context, value)])
    if not args:
        raise FilterArgumentError("map requires a filter argument")
    hashed(args[0])
    apply = context.environment.call_filter
    return iter([apply(args[0], item, args[1:], kwargs, context=context) for item in _ticked(context, value)])


def selector(wanted: bool, by_attribute: bool) -> Callable[..., Any]:
    @pass_context
    def apply(context: Context, value: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        if not value:
            return iter(())
        if by_attribute and not args:
            raise FilterArgumentError("Missing parameter for attribute name")
        get = _getter(context, args[0]) if by_attribute else _getter(context, None)
        rest = args[1:] if by_attribute else args
        hashed(rest[:1])

        def passes(item: Any) -> bool:
            item = get(item)
            if not rest:
                return bool(item)
            return bool(context.environment.call_test(rest[0], item, rest[1:], kwargs, context))

        return iter([item for item in _ticked(context, value) if passes(item) is wanted])

    return apply


def extreme(choose: Callable[..., Any]) -> Callable[..., Any]:
    @pass_context
    def apply(context: Context, value: Any, case_sensitive: bool = False, attribute: Any = None) -> Any:
        items = _list(context.budget, value)
        if not items:
            return context.environment.undefined("No aggregated item, sequence was empty.")
        return choose(items, key=_sort_key(context, attribute, case_sensitive))

    return apply


@pass_context
def do_reverse(context: Context, value: Any) -> Any:
    if isinstance(value, str):
        return context.budget.text(value[::-1])
    try:
        return reversed(value)
    except TypeError:
        return context.budget.items(_list(context.budget, value)[::-1])


@pass_context
def do_slice(context: Context, value: Any, slices: int, fill_with: Any = None) -> Iterator[list[Any]]:
    budget = context.budget
    items = _list(budget, value)
    budget.allow(64 * slices)
    per_slice, n_longer = divmod(len(items), slices)
    result: list[list[Any]] = []
    at = 0
    for number in range(slices):
        end = at + per_slice + (number < n_longer)
        filled = [] if fill_with is None or number < n_longer else [fill_with]
        result.append(budget.items(items[at:end] + filled))
        at = end
    return iter(budget.items(result))


@pass_context
def do_sort(
    context: Context, value: Any, reverse: bool = False, case_sensitive: bool = False, attribute: Any = None
) -> list[Any]:
    paths = attribute.split(",") if isinstance(attribute, str) else [attribute]
    keys = [_sort_key(context, path, case_sensitive) for path in paths]
    items = _list(context.budget, value)
    context.budget.tick(64 * len(items))
    return list(
        context.budget.items(sorted(items, key=lambda item: [key(item) for key in keys], reverse=reverse))
    )


@pass_context
def do_sum(context: Context, iterable: Any, attribute: Any = None, start: Any = 0) -> Any:
    if isinstance(start, str):
        raise TypeError("sum() can't sum strings")
    get, total = _getter(context, attribute), start
    for item in _ticked(context, iterable):
        total = context.operators.plus((total, get(item)))
    return total


@pass_context
def do_unique(
    context: Context, value: Any, case_sensitive: bool = False, attribute: Any = None
) -> Iterator[Any]:
    key = _sort_key(context, attribute, case_sensitive)
    items = _list(context.budget, value)
    first: dict[Any, Any] = {}
    for item in items:
        first.setdefault(key(item), item)
    return iter(list(context.budget.items(list(first.values()))))


LIST_FILTERS: dict[str, Callable[..., Any]] = {
    "batch": do_batch,
    "count": len,
    "dictsort": do_dictsort,
    "first": jinja.sync_do_first,
    "groupby": do_groupby,
    "items": do_items,
    "join": do_join,
    "last": jinja.do_last,
    "length": len,
    "list": do_list,
    "map": do_map,
    "max": extreme(max),
    "min": extreme(min),
    "reject": selector(wanted=False, by_attribute=False),
    "rejectattr": selector(wanted=False, by_attribute=True),
    "reverse": do_reverse,
    "select": selector(wanted=True, by_attribute=False),
    "selectattr": selector(wanted=True, by_attribute=True),
    "slice": do_slice,
    "sort": do_sort,
    "sum": do_sum,
    "unique": do_unique,
}
