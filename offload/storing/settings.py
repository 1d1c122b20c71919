"""What an operator can say of one store, as options of the tier or the spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from kvatlas.index.errors import ConfigError
from kvatlas.offload.capacity.limits import CapacityLimits


class StorageSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One store of KV files. Raises ConfigError for values out of range, with their path."""

    # Behaviour.
    root: str
    """Folder of the store, or a URL of an object store (`s3://bucket/prefix`)."""
    name: str = ""
    """What `PodConfig.stores` calls it. Empty: the last part of root."""
    locality: Literal["LOCAL", "REMOTE"] | None = None
    """LOCAL: a disk of this node, events are of tier disk. Else storage that others share."""
    required: bool = True
    """Whether a store that cannot be reached at start is an error. False: serving begins without it,
    and it is tried again."""
    revision: str = ""
    """What else decides the bytes and no configuration of the server says: the weights' revision."""
    hash_algorithm: str = "sha256"
    """The server's --prefix-caching-hash-algo, which it does not tell; its first request shows if it is."""
    engine_version: str = ""
    """The server's version that the bytes are of: those of another are not read. Empty: its own. Servers of
    two versions share their files only where somebody who knows both says that the bytes are the same."""
    device: str = ""
    """What the bytes were laid out for. Empty: the server's platform says it."""
    capacity_bytes: int | None = None
    """Of all processes on the store together; then what was used longest ago goes. None: no cap."""
    free_bytes_min: int = 1 << 30
    """Room that is left on the file system."""
    evicts: bool = True
    """Whether this process may evict; False where `kvatlas evict` does it."""
    high_share: float = 0.95
    """Eviction begins when so much of the capacity is used,"""
    low_share: float = 0.85
    """and ends at this."""
    lease_s: float = 60.0
    """A file that was used within this time is never evicted; longer than time_limit_s."""
    touch_s: float = 20.0
    """The use of a file is noted at most so often; at most half of lease_s."""
    inventory: bool = True
    """Whether what is there at start is looked through, known beforehand and announced."""
    events: str = "engine"
    """Where stores and removals are announced: engine (its own stream of events), none, or the endpoint
    of a ZeroMQ socket: bound if it holds a *, such as tcp://*:5600, else dialled."""
    events_replay: str = ""
    """Endpoint of that socket's replay. Empty: none."""
    events_model: str = ""
    """The name that the server serves the model by; that socket's events carry it."""

    # Time.
    time_limit_s: float = 10.0
    """What takes longer has failed; longer than write_budget_s."""
    write_budget_s: float = 4.0
    """Seconds that the queue of writes may take to empty; what is more is dropped."""
    breaker_failures: int = 3
    """Failures in a row that make a store count as down."""
    breaker_s_min: float = 1.0
    """For so long nothing is asked of it then, before it is tried by one key; doubled each time."""
    breaker_s_max: float = 60.0
    """And never longer than this."""
    absent_s: float = 5.0
    """For so long a chunk that was not there, or failed to load, is not asked for again."""

    # Performance and bounds.
    readers: int = 8
    """Reads under way at once."""
    writers: int = 8
    """Writes under way at once."""
    reads_per_write: int = 4
    """Reads go first; of so many, one write."""
    staging_bytes: int = 64 << 20
    """Memory that reads are verified in."""
    queued_max: int = 8192
    """Chunks that wait for a thread."""
    direct: bool = True
    """O_DIRECT where the file system takes it."""
    uring: bool = True
    """io_uring where the kernel has it."""
    numa_node: int | None = None
    """NUMA node that threads and buffers are kept near. None: that of the engine's devices, where all have
    the same; -1: none."""
    sync: bool = False
    """fdatasync before a file gets its name: a power loss then tears none. Else the checksum finds it."""
    catalogue_entries: int = 1 << 20
    """Keys whose presence is remembered, about 64 bytes each."""
    inventory_keys_per_step: int = 128
    """Of the inventory, keys that one engine step announces."""
    announcements_max: int = 1 << 17
    """Keys that wait to be announced; beyond, the oldest are dropped and counted."""
    objects: dict[str, str] = {}
    """Options of an object store's client; credentials come from the environment."""

    def __post_init__(self) -> None:
        _check("root", self.root, bool(self.root), "a folder or a URL")
        self.limits()
        for name, low, high in _RANGES:
            value = getattr(self, name)
            _check(name, value, low <= value <= high, f"from {low} to {high}")
        _check(
            "write_budget_s",
            self.write_budget_s,
            self.write_budget_s < self.time_limit_s,
            "less than time_limit_s",
        )
        _check("lease_s", self.lease_s, self.lease_s > self.time_limit_s, "more than time_limit_s")
        node = self.numa_node
        _check("numa_node", node, node is None or -1 <= node < 1024, "from -1 to 1023, or null")
        _check(
            "breaker_s_max",
            self.breaker_s_max,
            self.breaker_s_max >= self.breaker_s_min,
            "at least breaker_s_min",
        )
        at = self.events
        _check(
            "events",
            at,
            at in ("engine", "none") or "://" in at,
            "engine, none or an endpoint such as tcp://*:5600",
        )
        is_told = at in ("engine", "none") or bool(self.events_model)
        _check(
            "events_model", self.events_model, is_told, "the served model's name, where events is an endpoint"
        )

    def limits(self) -> CapacityLimits:
        """Of the store's capacity. Raises ConfigError as the constructor does."""
        return CapacityLimits(**{name: getattr(self, name) for name in _LIMITS})


_LIMITS = ("capacity_bytes", "free_bytes_min", "evicts", "high_share", "low_share", "lease_s", "touch_s")

_RANGES = (
    ("time_limit_s", 0.01, 3600),
    ("write_budget_s", 0, 3600),
    ("breaker_failures", 1, 1_000_000),
    ("breaker_s_min", 0.001, 3600),
    ("breaker_s_max", 0.001, 86_400),
    ("absent_s", 0.01, 86_400),
    ("readers", 1, 256),
    ("writers", 1, 256),
    ("reads_per_write", 1, 1_000_000),
    ("staging_bytes", 1 << 16, 1 << 40),
    ("queued_max", 1, 1 << 24),
    ("catalogue_entries", 16, 1 << 28),
    ("inventory_keys_per_step", 1, 1 << 20),
    ("announcements_max", 16, 1 << 28),
)


def parse_settings(options: Mapping[str, Any], where: str = "kv_connector_extra_config") -> StorageSettings:
    """The settings that stand in a server's configuration at `where`.

    Raises ConfigError with the path of what is wrong.
    """
    try:
        return msgspec.convert(dict(options), StorageSettings, strict=True)
    except msgspec.ValidationError as error:
        # A check of our own comes wrapped in it.
        if isinstance(error.__cause__, ConfigError):
            raise ConfigError(f"{where}.{error.__cause__}") from error
        raise ConfigError(f"{where}: {error}") from error


def _check(name: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise ConfigError(f"{name}: expected {expected}, got {value!r:.200}")
