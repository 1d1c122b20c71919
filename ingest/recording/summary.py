"""What is in a recording, in numbers."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from kvatlas.ingest.recording.order import batch_of
from kvatlas.ingest.recording.reader import RecordingReader
from kvatlas.ingest.recording.records import Lost, Message, Source

TOPICS_MAX = 64
"""Kept of each source; further ones are not listed."""

_NS = 1_000_000_000


class SourceSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What came from one source."""

    number: int
    endpoint: str
    role: str
    replay_of: int | None
    messages: int
    frame_bytes: int
    malformed: int
    """Messages without a topic, eight bytes of sequence and a payload."""
    lost: int
    """Messages that the recorder had no room for."""
    first_s: float | None
    last_s: float | None
    """Of its messages, since the recording's beginning."""
    topics: tuple[str, ...]


class RecordingSummary(msgspec.Struct, frozen=True, kw_only=True):
    """All of a recording."""

    began_s: float
    """Since the epoch."""
    seconds: float
    sessions: int
    """Runs of a recorder that wrote it."""
    file_bytes: int
    has_index: bool
    """False: it was not closed, or is written at this moment."""
    torn_bytes: int
    damaged_bytes: int
    damaged_blocks: int
    sources: tuple[SourceSummary, ...]


def summary_of(reader: RecordingReader) -> RecordingSummary:
    """Reads the whole file, so that every checksum is looked at."""
    tallies = {number: _Tally(source) for number, source in reader.sources.items()}
    unknown = _Tally(Source(endpoint="(its session is damaged)"))
    for record in reader.records():
        tallies.get(record.source, unknown).add(record)
    if unknown.messages or unknown.lost:
        tallies[-1] = unknown
    return RecordingSummary(
        began_s=reader.wall_ns / _NS,
        seconds=reader.seconds,
        sessions=len(reader.sessions),
        file_bytes=reader.file_bytes,
        has_index=reader.has_index,
        torn_bytes=reader.torn_bytes,
        damaged_bytes=reader.damaged_bytes,
        damaged_blocks=reader.damaged_blocks,
        sources=tuple(tally.summary(number) for number, tally in tallies.items()),
    )


class _Tally:
    """Counts one source."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.messages = self.frame_bytes = self.malformed = self.lost = 0
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self.topics: dict[bytes, None] = {}

    def add(self, record: Message | Lost) -> None:
        if isinstance(record, Lost):
            self.lost += record.messages
            return
        self.messages += 1
        self.frame_bytes += sum(map(len, record.frames))
        self.last_ns = record.time_ns
        if self.first_ns is None:
            self.first_ns = record.time_ns
        batch = batch_of(record, self.source.role)
        if batch is None:
            self.malformed += 1
        elif batch.topic and len(self.topics) < TOPICS_MAX:
            self.topics[batch.topic] = None

    def summary(self, number: int) -> SourceSummary:
        return SourceSummary(
            number=number,
            endpoint=self.source.endpoint,
            role=self.source.role.name.lower(),
            replay_of=self.source.replay_of,
            messages=self.messages,
            frame_bytes=self.frame_bytes,
            malformed=self.malformed,
            lost=self.lost,
            first_s=_seconds(self.first_ns),
            last_s=_seconds(self.last_ns),
            topics=tuple(_texts(self.topics)),
        )


def _seconds(time_ns: int | None) -> float | None:
    return None if time_ns is None else time_ns / _NS


def _texts(topics: Iterable[bytes]) -> list[str]:
    return [topic.decode("utf-8", "backslashreplace") for topic in topics]
