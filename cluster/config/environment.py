"""What the environment says of a configuration: KVATLAS__SHARDS__COUNT=4."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Union

import msgspec
import yaml

from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.cluster.config.ranges import hints_of
from kvatlas.index.errors import ConfigError

PREFIX = "KVATLAS__"


def read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """The part of a configuration that stands in variables. Raises ConfigError with the variable's name."""
    tree: dict[str, Any] = {}
    for variable in sorted(name for name in environment if name.startswith(PREFIX)):
        *parents, last = variable.removeprefix(PREFIX).lower().split("__")
        place = tree
        kind: type[msgspec.Struct] = ClusterConfig
        for parent in parents:
            kind = _struct_of(_hint(variable, kind, parent), variable, parent)
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ConfigError(f"{variable}: expected no variable for all of {parent} beside it")
        hint = _hint(variable, kind, last)
        place[last] = _value(environment[variable], hint, variable)
    return tree


def _hint(variable: str, kind: type[msgspec.Struct], name: str) -> Any:
    hints = hints_of(kind)
    if name not in hints:
        close = difflib.get_close_matches(name, hints, n=1, cutoff=0.6) or sorted(hints)
        raise ConfigError(
            f"{variable}: expected a field of {kind.__name__} ({', '.join(close)}), got {name!r}"
        )
    return hints[name]


def _struct_of(hint: Any, variable: str, name: str) -> type[msgspec.Struct]:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return hint
    raise ConfigError(f"{variable}: expected {name} as a whole, as YAML: it has no fields")


def _value(text: str, hint: Any, variable: str) -> Any:
    if _is_text(hint):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{variable}: expected YAML, got {text[:200]!r}") from error


def _is_text(hint: Any) -> bool:
    """Whether all that fits is a text (or nothing)."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _is_text(arguments[0])
    if origin in (Union, types.UnionType):
        return all(one is type(None) or _is_text(one) for one in arguments)
    return hint is str or origin is Literal
