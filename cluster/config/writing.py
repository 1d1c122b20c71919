"""A configuration as plain values, as YAML, and how two of them differ. Secrets are never among it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import yaml

from kvatlas.cluster.config.parsing import tag_of
from kvatlas.cluster.config.secret_texts import HIDDEN, is_secret


def to_yaml(config: msgspec.Struct) -> str:
    """What differs from the defaults, as YAML that `load_config` reads.

    Secrets stand as `(secret)`: the file that is read again has to say where they come from.
    """
    return yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True, width=110)


def to_plain(value: Any, *, everything: bool = False) -> Any:
    """As dicts, lists, numbers and texts; only what differs from the defaults unless `everything`."""
    if isinstance(value, msgspec.Struct):
        return _fields(value, everything)
    if isinstance(value, dict):
        return {key: to_plain(inner, everything=everything) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(inner, everything=everything) for inner in value]
    return value


def difference(one: msgspec.Struct, other: msgspec.Struct) -> list[str]:
    """What they have differently, a line each: `$.shards.count: 4, not 8`."""
    return list(_differences(one, other, "$"))


def _fields(struct: msgspec.Struct, everything: bool) -> dict[str, Any]:
    kind = type(struct)
    plain: dict[str, Any] = {}
    if kind.__struct_config__.tag is not None:
        name, tag = tag_of(kind)
        plain[name] = tag
    for field in msgspec.structs.fields(kind):
        value = getattr(struct, field.name)
        if everything or value != default_of(field):
            hidden = is_secret(kind, field.name) and value is not None
            plain[field.name] = HIDDEN if hidden else to_plain(value, everything=everything)
    return plain


def default_of(field: msgspec.structs.FieldInfo) -> Any:
    """NODEFAULT where a value is needed."""
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


def _differences(one: Any, other: Any, path: str) -> Iterator[str]:
    if one == other:
        return
    if isinstance(one, msgspec.Struct) and type(one) is type(other):
        for name in one.__struct_fields__:
            inner = getattr(one, name), getattr(other, name)
            if is_secret(type(one), name) and inner[0] != inner[1]:
                yield f"{path}.{name}: another secret"
            else:
                yield from _differences(*inner, f"{path}.{name}")
    elif isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}, key=str):
            yield from _differences(one.get(key), other.get(key), f"{path}[{key!r}]")
    elif isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        for at, inner in enumerate(zip(one, other, strict=True)):
            yield from _differences(*inner, f"{path}[{at}]")
    else:
        yield f"{path}: {_shown(one)}, not {_shown(other)}"


def _shown(value: Any) -> str:
    return f"{to_plain(value)!r:.200}"
