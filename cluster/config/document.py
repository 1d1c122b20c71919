"""Makes docs/configuration.md from the configuration's structs.

`python -m kvatlas.cluster.config.document docs/configuration.md`. The words are those of the docstrings
in the sources, so that they are written once.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import msgspec

from kvatlas.cluster.config.cluster_config import ELSEWHERE, ClusterConfig
from kvatlas.cluster.config.parsing import holds_structs, tag_of
from kvatlas.cluster.config.ranges import hints_of
from kvatlas.cluster.config.secret_texts import is_secret
from kvatlas.cluster.config.writing import default_of
from kvatlas.index.errors import ConfigError
from kvatlas.index.remote.connection.settings import RemoteSettings
from kvatlas.index.remote.fleet.settings import SharingSettings
from kvatlas.ingest.config import AtlasConfig
from kvatlas.ingest.index_config import IndexConfig
from kvatlas.offload.capacity.limits import CapacityLimits
from kvatlas.offload.evicting.settings import AnnouncedModel, EvictSettings, StoreToEvict
from kvatlas.offload.storing.settings import StorageSettings
from kvatlas.offload.window.settings import WindowSettings

_MARK = "<!-- What follows is made from the structs in cluster/config by `make docs`: change it there. -->"


OFFLOAD: tuple[tuple[str, type[msgspec.Struct]], ...] = (
    ("Offload: a store", StorageSettings),
    ("Offload: the window", WindowSettings),
    ("The evict service", EvictSettings),
    ("The evict service: stores[]", StoreToEvict),
    ("The evict service: stores[].limits", CapacityLimits),
    ("The evict service: stores[].announce[]", AnnouncedModel),
    ("An embedded atlas: index", IndexConfig),
    ("An embedded atlas: index.server", RemoteSettings),
    ("An embedded atlas: index.sharing", SharingSettings),
)
"""What is configured elsewhere: in a model server's connector, in `kvatlas evict -c`, in code."""


def document(page: str) -> str:
    """The page with what follows its mark made anew. Raises ConfigError without a mark."""
    introduction, mark, _ = page.partition(_MARK)
    if not mark:
        raise ConfigError(f"page: expected a line {_MARK}, got none")
    lines = [introduction + mark, ""]
    first_at: dict[type, str] = {}
    for path, kind in sections(ClusterConfig, ""):
        if first_at.setdefault(kind, path) == path:
            lines += _section(path, kind, first_at)
    for title, kind in OFFLOAD:
        lines += _section(title, kind, {})
    return "\n".join(lines).rstrip() + "\n"


def sections(kind: type[msgspec.Struct], path: str) -> Iterator[tuple[str, type[msgspec.Struct]]]:
    """Each struct of the tree with the place where it stands, from the root down."""
    yield path, kind
    for name, hint in hints_of(kind).items():
        if not _is_elsewhere(kind, name):
            for place, inner in _structs_in(hint, f"{path}.{name}" if path else name):
                yield from sections(inner, place)


def docs_of(kind: type) -> dict[str, str]:
    """Field -> what the docstring under it says, in one line."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    docs = {}
    for line, following in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and _is_text(following):
            docs[line.target.id] = " ".join(ast.literal_eval(following.value).split())
    return docs


def _is_text(node: ast.stmt) -> typing.TypeGuard[ast.Expr]:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _structs_in(hint: Any, path: str) -> Iterator[tuple[str, type[msgspec.Struct]]]:
    """The structs that a value of this type has in it, with their places."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        yield path, hint
        return
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    kinds = [one for one in arguments if isinstance(one, type) and issubclass(one, msgspec.Struct)]
    if origin in (Union, types.UnionType) and len(kinds) > 1:
        for kind in kinds:
            yield f"{path} ({tag_of(kind)[1]})", kind
    elif origin is dict:
        yield from _structs_in(arguments[1], f"{path}.NAME")
    elif origin is tuple:
        yield from _structs_in(arguments[0], f"{path}[]")
    else:
        for argument in arguments:
            yield from _structs_in(argument, path)


def _section(path: str, kind: type[msgspec.Struct], first_at: dict[type, str]) -> list[str]:
    docs, hints = docs_of(kind), hints_of(kind)
    lines = [f"## {path or 'The root'}", "", _about(kind), "", _TABLE_HEAD]
    if kind.__struct_config__.tag is not None:
        name, tag = tag_of(kind)
        lines.append(f"| `{name}` | text | needed | `{tag}` |")
    for field in msgspec.structs.fields(kind):
        if _is_elsewhere(kind, field.name):
            continue
        hint = hints[field.name]
        secret = "*Secret.* " if is_secret(kind, field.name) else ""
        meaning = secret + (docs.get(field.name) or _about_inner(hint))
        for _, inner in _structs_in(hint, ""):
            if inner in first_at:  # its fields are told once
                meaning += f" As `{first_at[inner]}`."
        lines.append(f"| `{field.name}` | {_type(hint)} | {_default(field)} | {_escaped(meaning)} |")
    return [*lines, ""]


def _about(kind: type) -> str:
    """The first paragraph of a docstring, without what only matters to Python."""
    text = inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0]
    return text.partition(" Raises ConfigError")[0].partition("\nRaises ConfigError")[0]


def _about_inner(hint: Any) -> str:
    """What a struct says of itself stands for a field that says nothing."""
    found = [kind for _, kind in _structs_in(hint, "")]
    assert found, f"a field of type {hint} has no docstring"
    return _about(found[0])


def _is_elsewhere(kind: type, name: str) -> bool:
    return kind is AtlasConfig and name in ELSEWHERE


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _type(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _type(arguments[0]) + _least(hint.__metadata__[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        kinds = [one for one in arguments if one is not type(None)]
        if len(kinds) > 1 and holds_structs(hint):
            return "fields, by `kind`"
        return " or ".join([*map(_type, kinds), *(["nothing"] if type(None) in arguments else [])])
    if origin is dict:
        return f"map of {_type(arguments[0])} to {_type(arguments[1])}"
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    return "fields" if holds_structs(hint) else _PLAIN_NAMES.get(hint, str(hint))


def _least(meta: msgspec.Meta) -> str:
    """A range. Upper bounds that only catch slips are left out."""
    if meta.ge is not None and meta.le is not None and meta.le < 1 << 16:
        return f" from {meta.ge} to {meta.le}"
    if meta.gt is not None:
        return f" above {meta.gt}"
    return f" of at least {meta.ge}" if meta.ge is not None else ""


_TABLE_HEAD = "| key | type | default | meaning |\n|---|---|---|---|"
_PLAIN_NAMES = {str: "text", int: "integer", float: "number", bool: "yes or no"}


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "needed"
    value = default_of(field)
    if value is None:
        return "nothing"
    if isinstance(value, msgspec.Struct):
        return "below"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if "bytes" in field.name and isinstance(value, int) and value and value % (1 << 20) == 0:
        return f"{value} ({_binary(value)})"
    if isinstance(value, (dict, tuple)):
        return "none" if not value else f"`{value}`"
    return f"`{value}`" if value != "" else "empty"


def _binary(value: int) -> str:
    return f"{value >> 30} GiB" if value % (1 << 30) == 0 else f"{value >> 20} MiB"


def main() -> None:
    """Writes the page to the file that is named."""
    (file,) = sys.argv[1:]
    page = Path(file).read_text(encoding="utf-8")
    Path(file).write_text(document(page), encoding="utf-8")


if __name__ == "__main__":
    main()
