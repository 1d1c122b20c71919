"""What a reader says of itself."""

from __future__ import annotations

from typing import Literal

import msgspec


class ShardReading(msgspec.Struct, frozen=True, kw_only=True):
    """How one shard is read."""

    shard: int
    how: Literal["attached", "asked", "missing"]
    """In shared memory; by messages; not at all, and it counts as empty."""
    replicas: tuple[int, ...]
    """Incarnations of those it is, or may be, read from."""
    is_whole: bool | None
    """It has what it should; None: only its answers say."""
    says: str = ""
    """Why it is not read better."""


class ReaderStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a process reads a cluster now."""

    cluster: str
    view_version: int
    view_age_s: float
    """Since when the directory has not confirmed the view; seconds."""
    is_trusted: bool
    """The view is not older than it may be; else every worker is DEGRADED."""
    says: str
    """Why the directory could not be asked last; empty when it could."""
    layout: int
    shards: tuple[ShardReading, ...]
    sessions: tuple[int, ...]
    n_workers: int
    counts: dict[str, int]
