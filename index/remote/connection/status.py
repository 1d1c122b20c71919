"""How a server is doing, in the eyes of one process."""

from __future__ import annotations

import msgspec


class RemoteCounts(msgspec.Struct):
    """Since the connection was made; not exact where threads count at one moment."""

    round_trips: int = 0
    commands: int = 0
    connects: int = 0
    """Connections made."""
    reconnects: int = 0
    """Of them, those made after a failure."""
    stale: int = 0
    """Idle connections that the server had closed."""
    repeats: int = 0
    """Requests that were asked again because their connection had broken."""
    timeouts: int = 0
    failures: int = 0
    """Requests that failed, for any reason but the backoff."""
    held_back: int = 0
    """Requests that failed at once, because one had failed a moment before."""
    crowded: int = 0
    """Requests for which no connection came free in time."""
    refused: int = 0
    oom: int = 0
    """Commands that the server's memory limit refused."""
    errors: int = 0
    """Commands that were answered by any other error."""
    moved: int = 0
    """Commands sent on to another node of the cluster."""
    asked: int = 0
    """Commands sent on while their slot was moving."""
    refreshes: int = 0
    """Readings of the cluster's layout."""
    script_loads: int = 0


class RemoteStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One moment of a RemoteConnection."""

    is_up: bool
    """Whether the last request was answered, and no node of a cluster fails. False before the first."""
    says: str
    """Where, and why not: one line without secrets."""
    age_s: float | None
    """Since the last answer. None: there was none."""
    down_s: float
    """Since the first failure after it. 0: up, or never asked."""
    counts: RemoteCounts
    nodes: tuple[str, ...]
    links: int
    """Connections open now."""
