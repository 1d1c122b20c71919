"""How much room a store has: the arithmetic of cap, free-space floor and the two thresholds."""

from __future__ import annotations

from typing import NamedTuple

from kvatlas.offload.capacity.ledger import LedgerSums
from kvatlas.offload.capacity.limits import CapacityLimits

_AHEAD_BYTES_MAX = 8 << 30


class Room(NamedTuple):
    """What a store may hold at this moment."""

    size_bytes: int
    """The cap, or less where the free space would fall below its floor before."""
    used_bytes: int
    claimed_bytes: int
    wanted_bytes: int
    """What writers have found no room for."""
    high_bytes: int
    low_bytes: int

    @property
    def is_short(self) -> bool:
        """Whether eviction has to begin: above the high threshold, or somebody's store does not fit."""
        return self.used_bytes > self.high_bytes or self._missing_bytes > 0

    @property
    def excess_bytes(self) -> int:
        """What has to go once eviction has begun."""
        return max(self.used_bytes - self.low_bytes, self._missing_bytes, 0)

    @property
    def _missing_bytes(self) -> int:
        return self.claimed_bytes + self.wanted_bytes - self.size_bytes if self.wanted_bytes else 0

    @property
    def free_bytes(self) -> int:
        """That nobody has claimed."""
        return max(self.size_bytes - self.claimed_bytes, 0)


def room_of(limits: CapacityLimits, sums: LedgerSums, disk_free_bytes: int) -> Room:
    """What the limits, the ledger and the disk leave."""
    size = max(sums.used_bytes + disk_free_bytes - limits.free_bytes_min, 0)
    if limits.capacity_bytes is not None:
        size = min(size, limits.capacity_bytes)
    return Room(
        size_bytes=size,
        used_bytes=sums.used_bytes,
        claimed_bytes=sums.claimed_bytes,
        wanted_bytes=min(sums.wanted_bytes, size),
        high_bytes=int(size * limits.high_share),
        low_bytes=int(size * limits.low_share),
    )


def ahead_bytes(limits: CapacityLimits, room: Room, n_writers: int) -> int:
    """What a writer should have claimed ahead: half of the room above the high threshold is for all claims.

    So claims that lie idle never keep the store from being filled to where eviction begins.
    """
    above = room.size_bytes * (1.0 - limits.high_share)
    return min(int(above / 2 / max(n_writers, 1)), _AHEAD_BYTES_MAX)
