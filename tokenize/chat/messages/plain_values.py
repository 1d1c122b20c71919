"""Values as JSON gives them, checked before a template sees them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from kvatlas.index.errors import InputError, quoted

VALUES_MAX = 1_000_000
"""Entries of the objects and arrays of one chat; those of a value that appears twice count twice."""

_SCALARS = frozenset({str, int, float, bool, type(None)})


class PlainValues:
    """Takes over values of one chat as exact dicts, lists, strings, numbers, booleans and None.

    What is that already is handed on as it is, never copied and never changed; what only resembles it
    (another mapping, a tuple, a string enumeration) is converted. One object for one chat: it counts.
    """

    __slots__ = ("_depth_max", "_entries_left")

    def __init__(self, depth_max: int) -> None:
        self._depth_max = depth_max
        self._entries_left = VALUES_MAX

    def take(self, value: Any, path: str) -> Any:
        """The value in plain types. Raises InputError for other types, keys that are no strings, cycles and
        what is nested too deep or too large, with the place below `path`."""
        if type(value) in _SCALARS:
            return value
        try:
            return self._take(value, 0)
        except _MisplacedError as error:
            raise InputError(f"{path}{error.place()}: {error.reason}") from None
        except RecursionError:  # where `depth_max` is set to more than Python's own limit
            raise InputError(f"{path}: expected a value that is nested less deep") from None

    def _take(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind is dict:
            return self._take_dict(value, depth)
        if kind is list:
            return self._take_list(value, depth)
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, (int, float)):
            return int(value) if isinstance(value, int) else float(value)
        if isinstance(value, Mapping):
            return self._take_dict(dict(value), depth)
        if isinstance(value, (list, tuple)):
            return self._take_list(list(value), depth)
        raise _MisplacedError(f"expected what JSON can hold, got {kind.__name__}")

    def _take_dict(self, value: dict[Any, Any], depth: int) -> dict[str, Any]:
        self._spend(len(value), depth)
        converted: dict[str, Any] | None = None
        has_plain_keys = True
        for key, item in value.items():
            if type(key) is not str:
                if not isinstance(key, str):
                    raise _MisplacedError(f"expected strings as keys, got {type(key).__name__}")
                has_plain_keys = False
            if type(item) in _SCALARS:
                continue
            try:
                taken = self._take(item, depth + 1)
            except _MisplacedError as error:
                error.under(f".{quoted(key, 40)}")
            if taken is not item:
                if converted is None:
                    converted = dict(value)
                converted[key] = taken
        taken_over = value if converted is None else converted
        return taken_over if has_plain_keys else {str.__str__(key): item for key, item in taken_over.items()}

    def _take_list(self, value: list[Any], depth: int) -> list[Any]:
        self._spend(len(value), depth)
        converted: list[Any] | None = None
        for index, item in enumerate(value):
            if type(item) in _SCALARS:
                continue
            try:
                taken = self._take(item, depth + 1)
            except _MisplacedError as error:
                error.under(f"[{index}]")
            if taken is not item:
                if converted is None:
                    converted = list(value)
                converted[index] = taken
        return value if converted is None else converted

    def _spend(self, n_entries: int, depth: int) -> None:
        if depth >= self._depth_max:
            raise _MisplacedError(
                f"expected at most {self._depth_max} levels, got more (or a value within itself)"
            )
        self._entries_left -= n_entries
        if self._entries_left < 0:
            raise _MisplacedError(f"expected at most {VALUES_MAX} entries in a chat, got more")


class _MisplacedError(Exception):
    """A value that cannot be taken; its place is gathered on the way up, so that good values pay nothing."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self._steps: list[str] = []

    def under(self, step: str) -> NoReturn:
        self._steps.append(step)
        raise self

    def place(self) -> str:
        return "".join(reversed(self._steps))
