"""What an atlas reports about itself."""

from __future__ import annotations

from typing import Any

import msgspec

from kvatlas.ingest.stream.lag import LagReport
from kvatlas.ingest.stream.truth import TruthReport


class WorkerStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """One worker: what can be claimed of it, its mirror, and the stream that feeds it."""

    pod: str
    rank: int
    model: str
    truth: TruthReport
    """EXACT, PARTIAL, DEGRADED or BLIND, and why."""
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
    """Applied."""
    sequence: int | None
    """Of the last batch applied."""
    gaps: int
    """Times that the sequence jumped ahead."""
    missed_batches: int
    """Of those, batches that nobody could be asked for."""
    restarts: int
    """Times that another incarnation of the engine was found: the worker was emptied."""
    repeated_batches: int
    """Dropped: batches once more."""
    replays: int
    """Complete answers of its replay socket."""
    replays_failed: int
    """Answers that broke off, or did not come."""
    stream: dict[str, int]
    """All that its stream has counted, by name (docs/ingest.md)."""
    buffered_batches: int
    """Live batches that wait for the end of a replay."""
    buffered_bytes: int
    last_event_ts: float | None
    """The server's time of its last batch, seconds since the epoch."""
    age_s: float | None
    """Since a live batch came; None: never."""
    lag: LagReport
    predictions: int
    """Comparisons of predicted with actual reuse that were fed in."""
    predictions_wrong: int


class StoreStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a store of KV files. The first five are of now, the others since the start."""

    blocks: int
    """Engine blocks that lie in it and are indexed."""
    known: int
    """Engine blocks whose name is known, those among them."""
    files: int
    waiting: int
    """Files of which nobody has said yet what they mean; at most `store_known_max`, the oldest go."""
    bytes: int
    """Of memory, for all this."""
    placed_late: int
    """Files that had waited."""
    stale: int
    """Announcements older than the file's removal, or than an inventory without it."""
    forgotten: int
    """Blocks in no file whose meaning was given up for room (`store_known_max`)."""
    refused: int
    """Files or meanings that found no room."""
    swept: int
    """Files that an inventory did not name."""
    waiting_dropped: int


class AtlasStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """All of an atlas at one moment."""

    workers: tuple[WorkerStatistics, ...]
    transitions: dict[str, int]
    """Changes of workers' states ever, by "OLD->NEW"."""
    models: dict[str, int | None]
    """Models and their block size in tokens, None while unknown."""
    stores: dict[str, int]
    """Engine blocks by store."""
    files: dict[str, StoreStatistics]
    """All of each store."""
    announcers: tuple[WorkerStatistics, ...]
    """Those that announce stores' files; no workers, in everything that concerns their streams like them."""
    blocks: int
    """Distinct blocks in the tables, those of workers that were cleared included until scrubbed."""
    events: dict[str, int]
    """events_stored, events_removed, events_cleared, blocks_stored, blocks_removed, orphaned,
    orphans_stitched, inventories, batches, refused_payloads."""
    skips: dict[str, int]
    """What was not applied as it came, by reason (docs/events.md)."""
    tables: tuple[dict[str, Any], ...]
    """Per shard: entries, slots, sets, bytes, load factor, drops, rebuilds."""
