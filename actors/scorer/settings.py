"""Settings of a scorer."""

from __future__ import annotations

import msgspec

from kvatlas.actors.reading.settings import ReaderSettings
from kvatlas.index.errors import ConfigError


class ScorerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a scorer actor is made with. Raises ConfigError for values out of range."""

    threads: int = 16
    """Calls that it works on at once; more wait in Ray."""
    reading: ReaderSettings = ReaderSettings()
    owned: bool = False
    """It ends when the cluster's directory is gone, instead of waiting for it to come back."""
    directory_gone_s_max: float = 10.0
    """How long the directory of an owned cluster may be gone, seconds."""

    def __post_init__(self) -> None:
        if isinstance(self.threads, bool) or not 1 <= self.threads <= 1024:
            raise ConfigError(f"scorer.threads: expected 1 to 1024, got {self.threads!r}")
