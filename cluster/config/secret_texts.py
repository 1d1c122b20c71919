"""Secrets of a configuration: given by file or environment, and never shown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kvatlas.index.errors import ConfigError
from kvatlas.ingest.config import AtlasConfig
from kvatlas.ingest.discovery.config import HttpWatchConfig
from kvatlas.ingest.sockets.curve import CurveConfig

HIDDEN = "(secret)"
_BYTES_MAX = 4096
_FIELDS = {(AtlasConfig, "hash_seed"), (CurveConfig, "secret_key"), (HttpWatchConfig, "token")}


def is_secret(kind: type, field: str) -> bool:
    """Whether this field of this struct is never to be shown."""
    return (kind, field) in _FIELDS


def read_secret(value: object, path: str, environment: Mapping[str, str]) -> object:
    """The text that `{file: PATH}` or `{env: NAME}` stands for; other values as they are.

    Raises ConfigError when there is none; it does not say the text.
    """
    if not isinstance(value, dict):
        return value
    if len(value) == 1 and isinstance(place := value.get("file"), str):
        return _read_file(Path(place), path)
    if len(value) == 1 and isinstance(name := value.get("env"), str):
        if not (text := environment.get(name, "").strip()):
            raise ConfigError(f"{path}: expected a text in the environment variable {name}, got none")
        return text
    raise ConfigError(f"{path}: expected a text, {{file: PATH}} or {{env: NAME}}, got {sorted(value)}")


def _read_file(place: Path, path: str) -> str:
    try:
        with place.expanduser().open("rb") as file:
            content = file.read(_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{path}: expected a file that can be read, got {error}") from error
    if len(content) > _BYTES_MAX:
        raise ConfigError(f"{path}: expected at most {_BYTES_MAX} bytes in {place}, got more")
    try:
        text = content.decode().strip()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected UTF-8 in {place}") from error
    if not text:
        raise ConfigError(f"{path}: expected a text in {place}, got none")
    return text
