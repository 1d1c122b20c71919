"""How a shard's process is set up; cluster/launch.py makes it of the configuration."""

from __future__ import annotations

from typing import Literal

import msgspec

from kvatlas.actors.link.link import LinkSettings
from kvatlas.index.errors import ConfigError


class ShardSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Raises ConfigError for values out of range."""

    table_bytes_max: int = 1 << 30
    """Byte budget of the table, two generations while rebuilding included; at least 4 MiB."""
    shared_memory_folder: str = "/dev/shm"
    """Where the table lies for readers of the same node; "": private memory, read through messages."""
    transport: Literal["zmq", "ray"] = "zmq"
    """What carries deltas and fetches: a socket of the shard's own, or Ray calls."""
    heartbeat_s: float = 1.0
    """Time between two heartbeats of the table, and between two reports to the directory."""
    owned: bool = False
    """The cluster belongs to a driver: the shard ends when the directory's name is gone."""
    directory_gone_s_max: float = 10.0
    """For so long the name may be gone."""
    pause_s_max: float = 3.0
    """A process that was paused for longer may have been replaced: readers are not told that it lives
    until the directory has answered."""
    link: LinkSettings = LinkSettings()

    def __post_init__(self) -> None:
        for name in ("heartbeat_s", "directory_gone_s_max", "pause_s_max"):
            if not 0.01 <= getattr(self, name) <= 3600:
                raise ConfigError(f"shard.{name}: expected 0.01 to 3600, got {getattr(self, name)!r}")
        if self.table_bytes_max < 4 << 20:
            raise ConfigError(f"shard.table_bytes_max: expected at least 4 MiB, got {self.table_bytes_max}")
