"""How much a store may hold, and when what lies in it may be deleted."""

from __future__ import annotations

import msgspec

from kvatlas.index.errors import ConfigError

_S_MAX = 30 * 86_400.0


class CapacityLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The bounds of one store. All who write to it and evict from it should be given the same.

    Raises ConfigError for values out of range; the message starts with the field.
    """

    # What bounds the store.

    capacity_bytes: int | None = None
    """All files together, of all spaces; None: no bound but the free space."""
    free_bytes_min: int = 0
    """What must stay free on the file system, whoever fills it."""
    high_share: float = 0.95
    """Eviction begins when so much of the capacity is used. Above it there must be room for what writers
    claim ahead."""
    low_share: float = 0.85
    """And ends when no more than this is used. The further apart, the rarer and the longer the evictions."""

    # What may be deleted.

    lease_s: float = 60.0
    """A file that was used within this time is never deleted. More than a load can take."""
    touch_s: float = 20.0
    """Readers note a file's use at most so often: at most half of `lease_s`, or what is in use looks idle."""
    temporary_s: float = 600.0
    """Temporary files older than this are litter of writers that died. More than a store can take."""
    bad_s: float = 86_400.0
    """How long files that were found corrupt are kept aside for people to look at."""

    # Who does it, and how often.

    evicts: bool = True
    """Whether this process may evict; False where `kvatlas evict` does it."""
    period_s: float = 1.0
    """How often a writer tells the others what it has written, and looks at what they have."""
    crawl_s: float = 3600.0
    """All files are counted anew this often; in between the writers' own figures are added up."""
    dead_s: float = 60.0
    """A writer that was silent for so long is dead; it stops by itself after half of it."""
    evictor_dead_s: float = 15.0
    """An evictor that was silent for so long is replaced."""

    def __post_init__(self) -> None:
        if self.capacity_bytes is not None:
            _check("capacity_bytes", self.capacity_bytes, 1 << 16, 1 << 60)
        _check("free_bytes_min", self.free_bytes_min, 0, 1 << 60)
        _check("high_share", self.high_share, 0.01, 1.0)
        _check("low_share", self.low_share, 0.0, self.high_share)
        _check("lease_s", self.lease_s, 0.0, _S_MAX)
        _check("touch_s", self.touch_s, 0.0, self.lease_s / 2)
        _check("temporary_s", self.temporary_s, 0.0, _S_MAX)
        _check("bad_s", self.bad_s, 0.0, _S_MAX)
        _check("period_s", self.period_s, 0.001, 60.0)
        _check("crawl_s", self.crawl_s, 0.0, _S_MAX)
        _check("dead_s", self.dead_s, 4 * self.period_s, _S_MAX)
        _check("evictor_dead_s", self.evictor_dead_s, 0.01, _S_MAX)

    @property
    def is_bounded(self) -> bool:
        return self.capacity_bytes is not None or self.free_bytes_min > 0


def _check(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise ConfigError(f"{name}: expected {least:g} to {most:g}, got {value!r}")
