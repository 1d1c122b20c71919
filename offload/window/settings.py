"""What an operator can say of the window: the host memory between the GPU and a store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from kvatlas.index.errors import ConfigError
from kvatlas.offload.storing.settings import StorageSettings, parse_settings

OPTION = "kvatlas"
"""Where these stand in a server's kv_connector_extra_config."""


class WindowSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The window of one engine. Raises ConfigError for values out of range, with their path."""

    # Behaviour.
    window_bytes: int
    """Host memory, shared by the engine's processes; what was stored or loaded last stays in it. The longest
    prefix that can be loaded at once is a share of it (request_share)."""
    wait_s_max: float = 2.0
    """For so long a request waits for chunks that are being looked for or loaded; then it computes them."""
    hold_s_max: float = 30.0
    """For so long chunks are kept for a request that waits and has not been seen since."""
    events: bool = True
    """Whether chunks that come into the window, and go, are announced (as tier cpu)."""

    # Performance and bounds.
    request_share: float = 0.5
    """How much of the window one request may want at once, at most."""
    loads_share: float = 0.5
    """How much of the window may be in the course of being loaded, at most."""
    folder: str = "/dev/shm"
    """Where the shared memory's file is made; a file system in memory."""
    attach_s_max: float = 120.0
    """For so long one process waits for another that is making the file."""
    driver: str | None = None
    """Path of the CUDA driver's library. None: the system's."""

    def __post_init__(self) -> None:
        _check("window_bytes", self.window_bytes, self.window_bytes > 0, "more than 0")
        for name, low, high in _RANGES:
            value = getattr(self, name)
            _check(name, value, low <= value <= high, f"from {low} to {high}")
        _check("folder", self.folder, self.folder.startswith("/"), "an absolute path")


_RANGES = (
    ("wait_s_max", 0.0, 3600.0),
    ("hold_s_max", 0.01, 3600.0),
    ("attach_s_max", 0.01, 3600.0),
    ("request_share", 0.01, 1.0),
    ("loads_share", 0.01, 1.0),
)


def window_settings(extra_config: Mapping[str, Any]) -> tuple[WindowSettings, StorageSettings]:
    """The settings in a server's kv_connector_extra_config: of the window, and of the store behind it.

    Raises ConfigError with the path of what is missing or wrong.
    """
    where = f"kv_connector_extra_config.{OPTION}"
    options = extra_config.get(OPTION)
    if not isinstance(options, Mapping):
        raise ConfigError(f"{where}: expected an object with window_bytes and storage, got {options!r:.200}")
    options = dict(options)
    storage = options.pop("storage", None)
    if not isinstance(storage, Mapping):
        raise ConfigError(f"{where}.storage: expected an object with root, got {storage!r:.200}")
    try:
        settings = msgspec.convert(options, WindowSettings, strict=True)
    except msgspec.ValidationError as error:
        problem = error.__cause__ if isinstance(error.__cause__, ConfigError) else error
        raise ConfigError(f"{where}: {problem}") from error
    return settings, parse_settings(storage, f"{where}.storage")


def _check(name: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise ConfigError(f"{name}: expected {expected}, got {value!r:.200}")
