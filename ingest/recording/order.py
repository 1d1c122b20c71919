"""In which order the messages of a recording are to be told, so that each batch is told once.

A recording has live messages as they came, and beside them what replay sockets answered: batches from
before, and some of the live ones again. An answer is told first, at the moment that its session began;
a live message that was in it is not told again.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Mapping

import msgspec

from kvatlas.ingest.recording.reader import RecordedSession, RecordingReader
from kvatlas.ingest.recording.records import Lost, Message, Role, Source
from kvatlas.ingest.sockets.replay_answer import END_OF_REPLAY

_REMEMBERED_MAX = 65_536
_BATCH_FRAMES = 3
_SEQUENCE_BYTES = 8


class Batch(msgspec.Struct, frozen=True):
    """What a sound message says."""

    topic: bytes
    sequence: int
    payload: bytes


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """The next message, and what it is to whom listens to its server."""

    message: Message
    source: Source
    """The live source; of an answer the one whose server answered, if any, else the replay socket."""
    batch: Batch | None
    """None: not topic, eight bytes of sequence and payload."""
    is_answer: bool
    """From a replay socket: a subscriber of the live source did not hear it."""
    is_known: bool
    """Told before: by an answer if live, by either if an answer."""


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of a recording."""

    from_s: float = 0.0
    """Since its beginning."""
    to_s: float = float("inf")
    sources: tuple[int, ...] = ()
    """Numbers of sources; empty: all. A live source takes its replay with it."""

    def takes(self, number: int, source: Source) -> bool:
        return not self.sources or number in self.sources or source.replay_of in self.sources


def batch_of(message: Message, role: Role) -> Batch | None:
    """The batch in a live message, or in a reply: that begins with an empty frame, and may lack the topic."""
    frames = message.frames
    if role is Role.REPLAY:
        frames = frames[1:] if len(frames) != _BATCH_FRAMES else (b"", *frames[1:])
    if len(frames) != _BATCH_FRAMES or len(frames[1]) != _SEQUENCE_BYTES:
        return None
    return Batch(frames[0], int.from_bytes(frames[1], "big"), frames[2])


def speaker_of(source: Source, sources: Mapping[int, Source]) -> Source:
    """Whose words come from a source: of a replay, the live source beside it, if there is one."""
    return source if source.replay_of is None else sources.get(source.replay_of, source)


def told(
    reader: RecordingReader, selection: Selection | None = None, counts: Counter[str] | None = None
) -> Iterator[Told]:
    """All selected messages in the order in which to tell them, without the end markers of answers.

    `counts` gets "lost", messages that the recorder had no room for, and "unknown_source", those whose
    session is damaged. Sessions with replays are read twice. It remembers the checksums of at most
    131 072 batches a server.
    """
    selection = Selection() if selection is None else selection
    counts = Counter() if counts is None else counts
    streams: dict[str, _Stream] = {}
    for session in reader.sessions:
        telling = _Telling(reader, session, selection, counts, streams)
        if telling.has_answers:
            yield from telling.answers()
        yield from telling.live()


class _Stream:
    """What one server has said: the checksum of each payload, by sequence number."""

    def __init__(self) -> None:
        self._live: dict[int, int] = {}
        self._answered: dict[int, int] = {}

    def knows(self, batch: Batch, is_answer: bool) -> bool:
        """Whether this very batch was told; a live one that comes twice is no news, but is told again."""
        checksum = zlib.crc32(batch.payload)
        if self._answered.get(batch.sequence) == checksum:
            return True
        if is_answer and self._live.get(batch.sequence) == checksum:
            return True
        said = self._answered if is_answer else self._live
        said[batch.sequence] = checksum
        if len(said) > _REMEMBERED_MAX:
            del said[next(iter(said))]
        return False


class _Telling:
    """One session, told."""

    def __init__(
        self,
        reader: RecordingReader,
        session: RecordedSession,
        selection: Selection,
        counts: Counter[str],
        streams: dict[str, _Stream],
    ) -> None:
        self._reader = reader
        self._session = session
        self._selection = selection
        self._counts = counts
        self._streams = streams
        self._sources = session.session.numbered
        self._topics: dict[str, bytes] = {}

    @property
    def has_answers(self) -> bool:
        return any(source.role is Role.REPLAY for source in self._sources.values())

    def answers(self) -> Iterator[Told]:
        for message, source in self._messages():
            if source.role is Role.REPLAY:
                speaker = speaker_of(source, self._sources)
                batch = batch_of(message, source.role)
                if batch is not None and batch.sequence.to_bytes(8, "big") == END_OF_REPLAY:
                    continue
                if batch is not None and len(message.frames) == _BATCH_FRAMES:
                    batch = msgspec.structs.replace(batch, topic=self._topic_of(speaker))
                yield self._told(message, speaker, batch, is_answer=True)

    def live(self) -> Iterator[Told]:
        for message, source in self._messages(counting=True):
            if source.role is not Role.REPLAY:
                yield self._told(message, source, batch_of(message, source.role), is_answer=False)

    def _told(self, message: Message, source: Source, batch: Batch | None, is_answer: bool) -> Told:
        stream = self._streams.setdefault(source.endpoint, _Stream())
        known = batch is not None and stream.knows(batch, is_answer)
        return Told(message=message, source=source, batch=batch, is_answer=is_answer, is_known=known)

    def _messages(self, counting: bool = False) -> Iterator[tuple[Message, Source]]:
        selection = self._selection
        for record in self._reader.records(selection.from_s, selection.to_s, self._session):
            source = self._sources.get(record.source)
            if source is not None and not selection.takes(record.source, source):
                continue
            if isinstance(record, Lost):
                self._counts["lost"] += record.messages if counting else 0
            elif source is None:
                self._counts["unknown_source"] += counting
            else:
                yield record, source

    def _topic_of(self, speaker: Source) -> bytes:
        """By its first sound live message: older servers leave the topic out of their replies."""
        if speaker.endpoint not in self._topics:
            found = (batch_of(m, s.role) for m, s in self._messages() if s == speaker)
            self._topics[speaker.endpoint] = next((batch.topic for batch in found if batch), b"")
        return self._topics[speaker.endpoint]
