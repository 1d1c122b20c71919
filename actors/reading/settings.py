"""Settings of whoever reads a cluster."""

from __future__ import annotations

import msgspec

from kvatlas.index.errors import ConfigError


class ReaderSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a process reads the shards. Raises ConfigError for values out of range."""

    # Behaviour.
    attaches: bool = True
    """Look blocks up in shared memory where a shard lies on the own node. False: always ask."""
    fetch_s_max: float = 0.25
    """A shard on another node that has not answered for so long counts as empty, and as down until it
    answers again, seconds."""
    table_age_s_max: float = 3.0
    """A table in shared memory whose writer has not been heard for so long is not used, seconds."""

    # Performance and bounds.
    view_wait_s: float = 3.0
    """How long the directory may hold the question for news, seconds. At most a third of the age at
    which views are distrusted."""
    fetch_keys_max: int = 1 << 18
    """Block keys in one message to a shard; what waits beyond goes with the next."""
    waiting_keys_max: int = 1 << 22
    """Block keys that wait for one shard; further requests find it empty at once."""

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if isinstance(value, bool) or not low <= value <= high:
                raise ConfigError(f"reading.{name}: expected {low} to {high}, got {value!r}")


_RANGES = (
    ("fetch_s_max", 0.001, 60.0),
    ("table_age_s_max", 0.1, 600.0),
    ("view_wait_s", 0.05, 60.0),
    ("fetch_keys_max", 1 << 10, 1 << 22),
    ("waiting_keys_max", 1 << 10, 1 << 26),
)
