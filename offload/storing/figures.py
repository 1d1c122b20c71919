"""What a storage counts."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from kvatlas.offload.backends.backend import Outcome


class Figures(msgspec.Struct):
    """Counters of one storage, in chunks where no other unit stands in the name; one thread."""

    foreign_keys: int = 0
    """Keys of another length than the store's: absent, never stored."""
    probes: int = 0
    stored: int = 0
    stored_bytes: int = 0
    store_s: float = 0.0
    """Sum over jobs, from submission to end."""
    loaded: int = 0
    loaded_bytes: int = 0
    load_s: float = 0.0
    inventory: int = 0
    """Found at start."""
    removed: int = 0
    """Evicted by this process."""
    dropped_budget: int = 0
    """Stores beyond the write budget."""
    dropped_down: int = 0
    """Stores while the store was down, or took no writes."""
    dropped_capacity: int = 0
    """Stores beyond the byte cap or the free-space floor."""
    dropped_queue: int = 0
    """Jobs of any kind that the backend had no room for."""
    failed_stores: int = 0
    failed_loads: int = 0
    present: int = 0
    """Were to be stored, and were there."""
    absent: int = 0
    """Were to be loaded or looked for, and were not there."""
    gone: int = 0
    """Of these, such as were known to be there: somebody has evicted them."""
    corrupt: int = 0
    """Torn, flipped or foreign files: never used, and removed."""
    failed: int = 0
    no_space: int = 0
    read_only: int = 0
    timed_out: int = 0
    cancelled: int = 0

    def count(self, outcomes: bytes) -> None:
        """How it went with the keys of a job."""
        if outcomes.count(Outcome.OK) == len(outcomes):
            return
        for name, outcome in _COUNTED:
            if n := outcomes.count(outcome):
                setattr(self, name, getattr(self, name) + n)


_COUNTED = tuple((one.name.lower(), one) for one in Outcome if one is not Outcome.OK)


class StorageStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """One store as one engine core sees it."""

    name: str
    is_down: bool
    """Its breaker is open: nothing is asked of it but a trial now and then."""
    takes_writes: bool
    times_down: int
    last_error: str
    counters: dict[str, float]
    """All of `Figures`, by name; and lookups_present, _absent, _asked (answered with: ask again), and _down
    (answered with absent, for the store was down); times_down and announcements_dropped.
    """
    write_queue_bytes: int
    write_bytes_per_s: float
    """As measured; the write budget is so many seconds of it."""
    jobs: int
    """Under way."""
    announcements_waiting: int
    announcements_dropped: int
    """Keys that were never announced, for too many waited."""
    catalogue: Mapping[str, float]
    backend: Mapping[str, float]
