"""Kinds of values in the configuration, with their ranges, and the check that every struct makes."""

from __future__ import annotations

import functools
import typing
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from kvatlas.index.errors import ConfigError

Count = Annotated[int, Meta(ge=1, le=1 << 20)]
"""At least one of something."""
ShardCount = Annotated[int, Meta(ge=1, le=1024)]
ReplicaCount = Annotated[int, Meta(ge=0, le=8)]
ScorerCount = Annotated[int, Meta(ge=0, le=1024)]
TokenizerCount = Annotated[int, Meta(ge=0, le=1024)]
GatewayCount = Annotated[int, Meta(ge=0, le=1024)]
ProxyCount = Annotated[int, Meta(ge=0, le=1024)]
LaneCount = Annotated[int, Meta(ge=1, le=65_534)]
Room = Annotated[int, Meta(ge=1 << 20, le=1 << 44)]
"""Bytes of a buffer: 1 MiB to 16 TiB."""
TableRoom = Annotated[int, Meta(ge=4 << 20, le=1 << 44)]
"""Bytes of a table: from 4 MiB."""
RequestRoom = Annotated[int, Meta(ge=1024, le=1 << 40)]
"""Bytes of requests: from 1 KiB."""
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
"""A time span: above 0, a day at most."""
Amount = Annotated[float, Meta(ge=0, le=1 << 40)]
"""Of a resource."""
Rate = Annotated[float, Meta(ge=0, le=1e9)]
"""Of something in a second."""
Port = Annotated[int, Meta(ge=1, le=65_535)]
Name = Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")]
"""Lower-case letters, digits and inner hyphens, 63 at most: it becomes part of actors' and files' names."""
Lifetime = Literal["detached", "owned"]
Transport = Literal["zmq", "ray"]
Placement = Literal["spread", "pack"]


@functools.cache
def hints_of(kind: type) -> dict[str, Any]:
    """The type of each field, with its range."""
    return typing.get_type_hints(kind, include_extras=True)


def check_fields(struct: msgspec.Struct) -> None:
    """Holds a struct that was made by hand to the ranges that one from a file is held to.

    Raises ConfigError with the field's name.
    """
    for name, hint in hints_of(type(struct)).items():
        read_leaf(getattr(struct, name), hint, name)


def read_leaf(value: object, hint: Any, path: str, shown: str | None = None) -> Any:
    """A value that holds no structs of its own, or structs that are made already.

    `shown` stands for the value in the message. Raises ConfigError with `path`.
    """
    try:
        return msgspec.convert(value, type=hint)
    except msgspec.ValidationError as error:
        reason, _, inner = str(error).partition(" - at `$")
        expected = reason.partition(", got ")[0].removeprefix("Expected ").replace("`", "")
        if not reason.startswith("Expected "):
            expected = f"one of {', '.join(typing.get_args(hint))}" if _is_choice(hint) else reason.lower()
        if "matching regex" in expected:
            expected = "1 to 63 lower-case letters, digits and inner hyphens"
        got = repr(value) if shown is None else shown
        raise ConfigError(f"{path}{inner.rstrip('`')}: expected {expected}, got {got}") from error


def _is_choice(hint: Any) -> bool:
    return typing.get_origin(hint) is Literal
