"""A cluster's configuration from a file, the environment and keywords.

What stands later in this list wins, field by field: defaults, the file, the environment, keywords.
Lists are replaced as a whole, maps and structs key by key.

- File: YAML (or JSON, which is YAML too), the fields of `ClusterConfig`.
- Environment: `KVATLAS__SHARDS__COUNT=4` is `shards: {count: 4}`: the path in capitals, joined by two
  underscores. Texts are taken as they stand, everything else is read as YAML:
  `KVATLAS__ATLAS__MODELS='{my/model: {block_size_tokens: 32}}'`.
- Keywords: `load_config(shards={"count": 4})`, or `shards__count=4`.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.cluster.config.environment import read_environment
from kvatlas.cluster.config.parsing import parse
from kvatlas.index.errors import ConfigError

_FILE_BYTES_MAX = 16 << 20


def load_config(
    path: str | Path | None = None, environment: Mapping[str, str] | None = None, /, **changes: object
) -> ClusterConfig:
    """The configuration; `environment` is the process's own unless given.

    Raises ConfigError with the path of a key that is unknown or a value that does not fit.
    """
    environment = os.environ if environment is None else environment
    tree: dict[str, Any] = {} if path is None else read_file(Path(path))
    _merge(tree, read_environment(environment))
    _merge(tree, _as_tree(changes))
    try:
        return parse(tree, ClusterConfig, environment)
    except ConfigError as error:
        source = f"{path}: " if path is not None else ""
        raise ConfigError(f"{source}{error}") from error


def read_file(path: Path) -> dict[str, Any]:
    """What a YAML file holds. Raises ConfigError when it cannot be read, or holds a key twice."""
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"configuration: expected a file that can be read, got {error}") from error
    if len(content) > _FILE_BYTES_MAX:
        raise ConfigError(f"{path}: expected at most {_FILE_BYTES_MAX} bytes, got more")
    try:
        tree = yaml.load(content, Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise ConfigError(f"{path}: expected YAML, got {_in_a_line(error)}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: $: expected the fields of a configuration, got {type(tree).__name__}")
    return tree


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key stands once and nothing stands for something else.

    Aliases would let a small file grow without bound.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable) or key in seen:
                raise yaml.MarkedYAMLError(problem=f"{key!r} twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _in_a_line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    what = " ".join(str(getattr(error, "problem", None) or error).split())
    return f"{what} (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else what


def _as_tree(changes: Mapping[str, object]) -> dict[str, Any]:
    """Keywords with two underscores are paths."""
    tree: dict[str, Any] = {}
    for name, value in changes.items():
        *parents, last = name.split("__")
        part: dict[str, Any] = {last: value}
        for parent in reversed(parents):
            part = {parent: part}
        _merge(tree, part)
    return tree


def _merge(tree: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """`changes` win; what is a mapping in both is merged. A struct takes the place of a mapping."""
    for key, value in changes.items():
        old = tree.get(key)
        if isinstance(old, msgspec.Struct) and isinstance(value, dict):
            old = tree[key] = msgspec.structs.asdict(old)
        if isinstance(old, dict) and isinstance(value, dict):
            _merge(old, value)
        else:
            tree[key] = dict(value) if isinstance(value, dict) else value
