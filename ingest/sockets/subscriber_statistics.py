"""What a subscriber has received so far."""

from __future__ import annotations

import msgspec


class SourceStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What has come from one source."""

    endpoint: str
    connections: int
    """Publishers connected right now."""
    batches: int
    """Handed to the atlas."""
    payload_bytes: int
    """Of those batches."""
    bad_frames: int
    """Messages that were not topic, sequence number and payload."""
    bad_sequence: int
    """Messages whose sequence number was not 8 bytes."""
    refused: int
    """Batches that the atlas raised a KvatlasError for."""
    handshakes_failed: int
    """Connections that were refused by one end."""
    said: tuple[str, ...]
    """The first complaint of each kind, as it was logged."""


class ReplayStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What has been asked of replay sockets."""

    asked: int
    """Requests sent."""
    complete: int
    """Answers that came to their end marker."""
    failed: int
    """Answers that broke off, were cut, or were none."""
    obsolete: int
    """Requests that were given up while they waited or were answered."""
    replies: int
    """Batches handed to the atlas."""
    bad_replies: int
    """Messages that were neither a batch nor an end marker; the answer fails there."""
    cut: int
    """Answers cut at `replay_bytes_max`."""
    in_flight: int
    queued: int
    """Requests that wait for others to end."""
    waiting_bytes: int
    """Of answers that have come and are not applied yet."""


class SubscriberStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """All sources together, each for itself, and replay."""

    connections: int
    batches: int
    payload_bytes: int
    bad_frames: int
    bad_sequence: int
    refused: int
    handshakes_failed: int
    sources: tuple[SourceStatistics, ...]
    replay: ReplayStatistics
    failure: str | None
    """What ended a thread before its time; None: all run, or have been stopped."""


SUMMED = (
    "connections",
    "batches",
    "payload_bytes",
    "bad_frames",
    "bad_sequence",
    "refused",
    "handshakes_failed",
)
"""Fields of sources that are added up; they keep counting when a source is removed, but for connections."""
