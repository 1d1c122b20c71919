"""What the blocks of a recording say: sessions with their sources, messages, losses.

The grammar is in docs/recording_format.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum

import msgspec

from kvatlas.index.errors import RecordingError

NO_SOURCE = 0xFFFF_FFFF
SOURCES_MAX = 65_536
"""Of a session."""

_MESSAGE, _LOST = 1, 2
_RECORD = struct.Struct("<BqI")
_MESSAGE_HEAD = struct.Struct("<II")
_LOST_BODY = struct.Struct("<IQ")
LOST_BYTES = _RECORD.size + _LOST_BODY.size
"""What a loss takes in a block, uncompressed."""
_SESSION = struct.Struct("<qqII")
_SOURCE = struct.Struct("<BIH")


class Role(IntEnum):
    """What kind of socket a source was."""

    CONNECTED = 0
    """A SUB that dialled a publisher."""
    BOUND = 1
    """A SUB that publishers dialled."""
    REPLAY = 2
    """A DEALER that asked a replay socket."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where messages come from."""

    endpoint: str
    role: Role = Role.CONNECTED
    replay_of: int | None = None
    """The number of the live source whose server answered; of a replay only."""


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a recorder: its sources are numbered on from those of earlier runs."""

    wall_ns: int
    monotonic_ns: int
    first_source: int
    sources: tuple[Source, ...]

    @property
    def numbered(self) -> dict[int, Source]:
        """Its sources by number."""
        return dict(enumerate(self.sources, self.first_source))


class Message(msgspec.Struct, frozen=True):
    """One multipart message, as it came."""

    time_ns: int
    """Since the file's beginning."""
    source: int
    frames: tuple[bytes, ...]


class Lost(msgspec.Struct, frozen=True):
    """Here messages are missing: the recorder had no room for them."""

    time_ns: int
    source: int
    messages: int


def pack_session(session: Session) -> bytes:
    """Raises RecordingError for a source that cannot be written down."""
    if len(session.sources) > SOURCES_MAX:
        raise RecordingError(f"sources: expected at most {SOURCES_MAX}, got {len(session.sources)}")
    packed = [
        _SESSION.pack(session.wall_ns, session.monotonic_ns, session.first_source, len(session.sources))
    ]
    for source in session.sources:
        endpoint = source.endpoint.encode("utf-8", "surrogateescape")
        if len(endpoint) > 0xFFFF:
            raise RecordingError(f"endpoint: expected at most 65535 bytes, got {len(endpoint)}")
        of = NO_SOURCE if source.replay_of is None else source.replay_of
        packed.append(_SOURCE.pack(source.role, of, len(endpoint)) + endpoint)
    return b"".join(packed)


def unpack_session(body: bytes) -> Session:
    """Raises RecordingError when the body is none."""
    try:
        wall_ns, monotonic_ns, first_source, count = _SESSION.unpack_from(body)
        at = _SESSION.size
        sources: list[Source] = []
        for _ in range(count):
            role, of, length = _SOURCE.unpack_from(body, at)
            at += _SOURCE.size
            endpoint = body[at : at + length].decode("utf-8", "surrogateescape")
            at += length
            replay_of = None if of == NO_SOURCE else of
            sources.append(Source(endpoint=endpoint, role=Role(role), replay_of=replay_of))
    except (struct.error, ValueError) as error:
        raise RecordingError(f"session: expected its sources, got other bytes ({error})") from error
    if at != len(body):
        raise RecordingError(f"session: expected {at} bytes, got {len(body)}")
    return Session(
        wall_ns=wall_ns, monotonic_ns=monotonic_ns, first_source=first_source, sources=tuple(sources)
    )


def message_bytes(frames: Sequence[bytes]) -> int:
    """What a message takes in a block, uncompressed."""
    return _RECORD.size + _MESSAGE_HEAD.size + 4 * len(frames) + sum(map(len, frames))


def pack_message(into: bytearray, time_ns: int, source: int, frames: Sequence[bytes]) -> None:
    into += _RECORD.pack(_MESSAGE, time_ns, message_bytes(frames) - _RECORD.size)
    into += _MESSAGE_HEAD.pack(source, len(frames))
    into += struct.pack(f"<{len(frames)}I", *map(len, frames))
    for frame in frames:
        into += frame


def pack_lost(into: bytearray, time_ns: int, source: int, messages: int) -> None:
    into += _RECORD.pack(_LOST, time_ns, _LOST_BODY.size)
    into += _LOST_BODY.pack(source, messages)


def unpack_records(body: bytes, count: int) -> Iterator[Message | Lost]:
    """The records of a body, one at a time; those of unknown kinds are passed over.

    Raises RecordingError where the lengths do not add up, or the body does not end after `count`
    records; what came before it holds.
    """
    at = 0
    for _ in range(count):
        if len(body) - at < _RECORD.size:
            raise RecordingError(f"record at {at}: expected {_RECORD.size} bytes, got {len(body) - at}")
        kind, time_ns, length = _RECORD.unpack_from(body, at)
        at += _RECORD.size
        if length > len(body) - at:
            raise RecordingError(f"record at {at}: expected {length} bytes, got {len(body) - at}")
        if kind == _MESSAGE:
            yield _unpack_message(body, at, length, time_ns)
        elif kind == _LOST:
            if length != _LOST_BODY.size:
                raise RecordingError(f"loss at {at}: expected {_LOST_BODY.size} bytes, got {length}")
            source, messages = _LOST_BODY.unpack_from(body, at)
            yield Lost(time_ns, source, messages)
        at += length
    if at != len(body):
        raise RecordingError(f"records: expected {count} in {at} bytes, got {len(body)} bytes")


def _unpack_message(body: bytes, at: int, length: int, time_ns: int) -> Message:
    head = _MESSAGE_HEAD.size
    source, count = _MESSAGE_HEAD.unpack_from(body, at) if length >= head else (0, NO_SOURCE)
    if head + 4 * count > length:  # before anything is made of a count that may lie
        raise RecordingError(f"message at {at}: expected {count} frames, got {length} bytes")
    lengths = struct.unpack_from(f"<{count}I", body, at + head)
    if head + 4 * count + sum(lengths) != length:
        raise RecordingError(f"message at {at}: expected {length} bytes, got frames of {sum(lengths)}")
    frames: list[bytes] = []
    begin = at + head + 4 * count
    for size in lengths:
        frames.append(body[begin : begin + size])
        begin += size
    return Message(time_ns, source, tuple(frames))
