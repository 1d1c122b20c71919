"""From plain values (dicts, lists, numbers, texts) to structs, with the path of what does not fit.

msgspec alone would stop at `$.atlas.models[...]`; here the message names the key, says what is close to
an unknown one, and never holds a secret.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar, Union

import msgspec

from kvatlas.cluster.config.ranges import hints_of, read_leaf
from kvatlas.cluster.config.secret_texts import HIDDEN, is_secret, read_secret
from kvatlas.index.errors import ConfigError, InputError

T = TypeVar("T", bound=msgspec.Struct)


def parse(value: object, kind: type[T], environment: Mapping[str, str]) -> T:
    """`value` as a struct of `kind`. Raises ConfigError that starts with the path, `$.shards.count: `."""
    made: T = _Parser(environment).struct(value, kind, "$")
    return made


class _Parser:
    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def struct(self, value: object, kind: type[msgspec.Struct], path: str, tag: str | None = None) -> Any:
        if isinstance(value, kind):
            return value
        if not isinstance(value, dict):
            raise ConfigError(f"{path}: expected fields of {kind.__name__}, got {_shown(value)}")
        hints, fields = hints_of(kind), {}
        for key, inner in value.items():
            if key == tag:
                continue
            if key not in hints:
                raise ConfigError(f"{path}.{key}: {_unknown(key, hints)}")
            fields[key] = self._field(inner, kind, key, f"{path}.{key}")
        try:
            return kind(**fields)
        except TypeError as error:  # Missing required argument 'endpoint'
            missing = str(error).partition("'")[2].rstrip("'")
            raise ConfigError(f"{path}.{missing}: expected a value, got none") from error
        except (ConfigError, InputError) as error:
            raise ConfigError(f"{path}.{error}") from error

    def _field(self, value: object, kind: type, name: str, path: str) -> Any:
        hint = hints_of(kind)[name]
        if is_secret(kind, name):
            return read_leaf(read_secret(value, path, self._environment), hint, path, HIDDEN)
        return self.any(value, hint, path)

    def any(self, value: object, hint: Any, path: str) -> Any:
        """A value of any type that a configuration may have."""
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            return self.struct(value, hint, path)
        if origin in (Union, types.UnionType) and any(holds_structs(one) for one in arguments):
            return self._union(value, arguments, path)
        if origin is dict and isinstance(value, dict):
            return {
                self._key(key, arguments[0], path): self.any(inner, arguments[1], f"{path}[{key!r}]")
                for key, inner in value.items()
            }
        if origin is tuple and isinstance(value, (list, tuple)) and holds_structs(hint):
            return tuple(self.any(one, arguments[0], f"{path}[{at}]") for at, one in enumerate(value))
        return read_leaf(value, hint, path, _shown(value))

    def _key(self, key: object, hint: Any, path: str) -> Any:
        return read_leaf(key, hint, f"{path}[{key!r}]: key")

    def _union(self, value: object, arguments: tuple[Any, ...], path: str) -> Any:
        if value is None and type(None) in arguments:
            return None
        kinds = [one for one in arguments if one is not type(None)]
        if len(kinds) == 1 or any(isinstance(value, kind) for kind in kinds):
            found = next((kind for kind in kinds if isinstance(value, kind)), kinds[0])
            return self.any(value, found, path)
        by_tag = {tag_of(kind)[1]: kind for kind in kinds}
        field = tag_of(kinds[0])[0]
        if not isinstance(value, dict):
            raise ConfigError(f"{path}: expected fields, {field} among them, got {_shown(value)}")
        tag = value.get(field)
        if tag not in by_tag:
            raise ConfigError(f"{path}.{field}: expected one of {', '.join(by_tag)}, got {tag!r}")
        return self.struct(value, by_tag[tag], path, field)


def holds_structs(hint: Any) -> bool:
    """Whether a value of this type has structs in it."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return True
    return any(holds_structs(one) for one in typing.get_args(hint))


def tag_of(kind: type[msgspec.Struct]) -> tuple[str, str]:
    """Field and value by which a struct of a union is known."""
    config = kind.__struct_config__
    return str(config.tag_field), str(config.tag)


def _unknown(key: object, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(str(key), known, n=1, cutoff=0.6)
    if close:
        return f"expected a known key, perhaps {close[0]}, got {key!r}"
    return f"expected one of {', '.join(sorted(known))}, got {key!r}"


def _shown(value: object) -> str:
    """Of a struct or a mapping no more than its shape: it may hold a secret."""
    if isinstance(value, dict):
        return f"keys {', '.join(sorted(map(str, value)))[:200] or 'none'}"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "..."
