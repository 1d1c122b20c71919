"""The configuration of `kvatlas evict`: which stores, their limits, who is told."""

from __future__ import annotations

import msgspec

from kvatlas.index.errors import ConfigError
from kvatlas.offload.capacity.limits import CapacityLimits


class AnnouncedModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model whose files are announced on sockets of the service's own."""

    model: str
    """As the config.json of its spaces names it."""
    served_name: str = ""
    """As its servers' events name it; "": the same."""
    endpoint: str
    """tcp://*:PORT where its events are published."""
    replay_endpoint: str | None = None
    """tcp://*:PORT where they can be asked for again."""
    blocks_per_chunk: int = 1
    """Engine blocks in a file, where the store has no space of this model yet."""


class StoreToEvict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One store."""

    root: str
    """Its folder."""
    limits: CapacityLimits
    threads: int = 4
    """That list and delete files: a file server answers many at once."""
    candidates_max: int = 131_072
    """Files that one crawl keeps to be deleted, at 180 bytes each."""
    announce: tuple[AnnouncedModel, ...] = ()
    """Without, and for other models: engines of a space announce what is evicted from it."""

    def __post_init__(self) -> None:
        if not self.root:
            raise ConfigError("root: expected the folder of a store, got nothing")
        for name, value, most in (
            ("threads", self.threads, 64),
            ("candidates_max", self.candidates_max, 10_000_000),
        ):
            if not 1 <= value <= most:
                raise ConfigError(f"{name}: expected 1 to {most}, got {value}")
        if len({one.model for one in self.announce}) < len(self.announce):
            raise ConfigError("announce: expected each model once")
        if not self.limits.is_bounded:
            raise ConfigError(f"{self.root}: expected capacity_bytes, free_bytes_min, or both, got neither")


class EvictSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One service."""

    stores: tuple[StoreToEvict, ...]
    host: str = "127.0.0.1"
    """Where health and metrics are served."""
    port: int | None = None
    """Of health and metrics, by HTTP; 0: any that is free; None: not served."""
    hung_s: float = 120.0
    """An evictor that has not got on for so long is unhealthy: its file system hangs."""
    retry_s_max: float = 60.0
    """The longest pause after failures."""

    def __post_init__(self) -> None:
        if not self.stores:
            raise ConfigError("stores: expected at least one, got none")
        if len({one.root for one in self.stores}) < len(self.stores):
            raise ConfigError("stores: expected each root once")
        if self.port is not None and not 0 <= self.port <= 65_535:
            raise ConfigError(f"port: expected 0 to 65535, got {self.port}")
        if min(self.hung_s, self.retry_s_max) <= 0:
            raise ConfigError("hung_s, retry_s_max: expected more than 0")
