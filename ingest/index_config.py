"""Configuration of where an atlas keeps its index."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from kvatlas.index.errors import ConfigError
from kvatlas.index.remote.connection.settings import RemoteSettings
from kvatlas.index.remote.fleet.settings import SharingSettings

IndexKind = Literal["memory", "remote"]


class IndexConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where an atlas keeps its index."""

    kind: IndexKind = "memory"
    """memory: tables of this process. remote: a Redis or Valkey server, which other processes write and read
    beside (docs/backends.md)."""
    server: RemoteSettings = RemoteSettings()
    """Of kind remote: where it is, and its bounds."""
    sharing: SharingSettings = SharingSettings()
    """Of kind remote: how processes that share it live together."""
    engine_keys: bool = False
    """Of kind remote, format llmd: tell llm-d's own writers what engines' block hashes mean, one key more a
    block on the server. For servers that llm-d writes to besides this process."""
    name: str = ""
    """Of kind remote: how this process is called in what others see of it. Empty: host and process number."""

    def __post_init__(self) -> None:
        kinds = get_args(IndexKind)
        if self.kind not in kinds:
            raise ConfigError(f"index.kind: expected one of {kinds}, got {self.kind!r}")
        if self.engine_keys and self.server.format != "llmd":
            raise ConfigError("index.engine_keys: expected false where server.format is kvatlas, got true")
        if len(self.name) > 256:
            raise ConfigError(f"index.name: expected at most 256 characters, got {len(self.name)}")
