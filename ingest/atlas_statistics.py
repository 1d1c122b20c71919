"""What an atlas reports about itself."""

from __future__ import annotations

from typing import Any

import msgspec


class WorkerStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """One worker's mirror and the stream that feeds it."""

    pod: str
    rank: int
    model: str
    blocks: dict[str, int]
    """Engine blocks held, by tier (gpu, cpu), over all groups."""
    groups: tuple[int, ...]
    stores: tuple[str, ...]
    closed: bool
    """Its blocks are closed under prefixes, gpu only: lookups may skip ahead."""
    ghosts: int
    """Engine blocks without a copy whose meaning is kept for a while."""
    orphans: int
    """Stores that wait for an unknown parent."""
    mirror_bytes: int
    batches: int
    sequence: int | None
    """Of the last batch."""
    gaps: int
    """Times that the sequence jumped ahead."""
    missed_batches: int
    restarts: int
    """Times that the sequence ran backwards: the worker was emptied."""
    repeated_batches: int
    """Dropped: the last batch once more."""
    last_event_ts: float | None
    """The server's time of its last batch, seconds since the epoch."""


class AtlasStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """All of an atlas at one moment."""

    workers: tuple[WorkerStatistics, ...]
    models: dict[str, int | None]
    """Models and their block size in tokens, None while unknown."""
    stores: dict[str, int]
    """Engine blocks by store."""
    blocks: int
    """Distinct blocks in the tables, those of workers that were cleared included until scrubbed."""
    events: dict[str, int]
    """events_stored, events_removed, events_cleared, blocks_stored, blocks_removed, orphaned,
    orphans_stitched, batches, refused_payloads."""
    skips: dict[str, int]
    """What was not applied as it came, by reason (docs/events.md)."""
    tables: tuple[dict[str, Any], ...]
    """Per shard: entries, slots, sets, bytes, load factor, drops, rebuilds."""
