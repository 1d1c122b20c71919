"""The operators of a template, on values that may be hostile.

Each does what Python's operator does, after it has made sure that the result fits.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from functools import reduce
from typing import Any

from markupsafe import Markup

from kvatlas.tokenize.chat.templates.budget import BIG, Budget, StoppedError

INT_BITS_MAX = 1 << 14
"""Of a product or power: more digits than Python prints."""
_WRITTEN_FACTOR = 16
_NUMBER = re.compile(r"\d+")
_SPECIFIER = re.compile(r"%[^a-zA-Z%]*")
_TEXT = {str}


class Operators:
    """Of one rendering, in one thread. All raise StoppedError, and what Python's operators raise."""

    __slots__ = ("_budget",)

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    def plus(self, operands: tuple[Any, ...]) -> Any:
        """a + b + c, from the left."""
        if set(map(type, operands)) != _TEXT:
            return reduce(self._add, operands)
        budget = self._budget
        n_chars = sum(map(len, operands))
        if n_chars >= BIG:
            return budget.joined(operands)
        budget.left -= n_chars
        if budget.left < 0:
            budget.tick(0)
        return "".join(operands)

    def _add(self, left: Any, right: Any) -> Any:
        budget = self._budget
        if isinstance(left, str) and isinstance(right, str):
            n_chars = len(left) + len(right)
            if isinstance(left, Markup) or isinstance(right, Markup):
                n_chars += 5 * max(len(left), len(right))  # one side is escaped
            budget.allow(n_chars)
            return budget.text(left + right)
        if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
            budget.allow(8 * (len(left) + len(right)))
            return budget.items(left + right)  # type: ignore[operator]
        return left + right

    def times(self, left: Any, right: Any) -> Any:
        budget = self._budget
        if isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() + right.bit_length())
            return left * right
        many, count = (right, left) if isinstance(left, int) else (left, right)
        if isinstance(count, int) and isinstance(many, str):
            budget.allow(len(many) * max(count, 0))
            return budget.text(many * count)
        if isinstance(count, int) and isinstance(many, (list, tuple)):
            budget.allow(8 * len(many) * max(count, 0))
            return budget.items(many * count)
        return left * right

    def power(self, left: Any, right: Any) -> Any:
        if isinstance(left, int) and isinstance(right, int) and right > 0:
            _check_bits(left.bit_length() * right)
        return left**right

    def modulo(self, left: Any, right: Any) -> Any:
        return self.percent(left, right) if isinstance(left, str) else left % right

    def percent(self, form: str, values: Any) -> str:
        """`form % values`, printf style."""
        budget = self._budget
        if isinstance(form, Markup):
            raise StoppedError("% on a text marked as safe")
        keyed = "%(" in form
        parts = [form] if keyed else _SPECIFIER.findall(form)
        if any("*" in part for part in parts) and not keyed:
            raise StoppedError("a width of * in a format")
        # Of a form with keys all numbers count, since keys may hold any text.
        n_chars = len(form) + _sum_of_numbers("".join(f"{part} " for part in parts), budget)
        # `%r` writes a character in up to ten, `%f` a number in 300.
        is_plain = form.count("%") < 1000 and "r" not in form and "a" not in form
        factor = 1 if is_plain else _WRITTEN_FACTOR
        weight = budget.weigh(values, factor) * factor
        budget.allow(n_chars + (weight * form.count("%") if keyed else weight))
        return budget.text(form % values)

    def tilde(self, operands: tuple[Any, ...]) -> str:
        """a ~ b ~ c"""
        if set(map(type, operands)) != _TEXT:
            operands = tuple(map(self._budget.written, operands))
        return self._budget.joined(operands)

    def cut(self, value: Any, start: Any, stop: Any, step: Any) -> Any:
        """value[start:stop:step]"""
        result = value[start:stop:step]
        if isinstance(result, str):
            return self._budget.text(result)
        return self._budget.items(result) if isinstance(result, (list, tuple)) else result

    def holds(self, item: Any, box: Any) -> bool:
        """item in box"""
        budget = self._budget
        if type(box) is str:
            budget.seen(len(box))
        elif type(item) is not str:
            budget.fit(item)
            budget.fit(box)
        elif isinstance(box, Sequence):
            budget.seen(len(box))
        return operator.contains(box, item)


def _check_bits(n_bits: int) -> None:
    if n_bits > INT_BITS_MAX:
        raise StoppedError(f"an integer of more than {INT_BITS_MAX} bits")


def _sum_of_numbers(text: str, budget: Budget) -> int:
    total = 0
    for number in _NUMBER.findall(text):
        if len(number) > 12:
            budget.allow(budget.text_max + 1)
        total += int(number)
    return total
