"""How those that write mirrors into a server stand to it."""

from __future__ import annotations

import msgspec


class RemoteWriterStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How far the index server is behind the mirrors."""

    phase: str
    """apart, loading, fed, short."""
    session: int
    """0: none."""
    is_reached: bool
    down_s: float
    """Since when the server is not reached; 0: it is."""
    says: str
    """What it was last not reached for, or why it is short."""
    waiting_bytes: int
    """Taken from the mirrors, and not written yet."""
    counts: dict[str, int]
    """batches, batch_bytes, sessions, loads, resyncs, sessions_over, lost (gathered changes that were
    dropped), full, failures, buried (sessions of others that were ended), parts."""
