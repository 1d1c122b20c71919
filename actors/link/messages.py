"""What subscribers and readers say to a shard, and what it answers. Source: docs/shard_protocol.md.

    frame  := magic "kva1" | version u8 | kind u8 | flags u16 | layout u32 | shard u32 |
              incarnation u64 | session u64 | number u64 | body          all little-endian

Every frame names the process that is meant; one that is not, or not any more, answers FENCED. An
answer repeats layout, shard, incarnation and session of its request.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kvatlas.index.errors import DecodeError, InputError

VERSION = 1
HEADER_BYTES = 40
KEY_BYTES = 8

_MAGIC = b"kva1"
_HEADER = struct.Struct("<4sBBHIIQQQ")
_U32 = struct.Struct("<I")
_TOTALS = struct.Struct("<QQ")
_VERSION_AT, _KIND_AT, _SESSION_AT = 4, 5, 24
_TEXT_BYTES_MAX = 1000
_LANES_MAX = 65_535

# Flags, by kind.
_FIRST, _LAST = 1, 2  # CONTENT
_SESSION_OVER = 1  # FENCED
_WHOLE = 1  # EXCERPT, EXPORTED
_BEGINS, _ENDS = 1, 2  # EXPORT

Keys = bytes | bytearray | memoryview | npt.NDArray[np.uint64]


class Kind(enum.IntEnum):
    """What a frame is. From 64 on: an answer."""

    HELLO = 1
    """What have you of my session?"""
    DELTA = 2
    """Records that come after all that you have of my session."""
    CONTENT = 3
    """All that my session has to say, or a part of it: what you have of these lanes is replaced."""
    FETCH = 4
    """What do you know of these keys?"""
    TOUCH = 5
    """These segments are in use."""
    EXPORT = 6
    """Keep what you hold now, as export `number`; give me a section of it; let go of it."""
    APPLIED = 64
    """`number` is the last that is applied."""
    RESYNC = 65
    """`number` is the last that is applied, and content is needed to go on."""
    FENCED = 66
    """You mean somebody else, or your session is over; the body says which."""
    REFUSED = 67
    """Not understood, or no room; nothing was done; the body says why."""
    EXCERPT = 68
    """The body is what `kvatlas.index._native.excerpt` wrote."""
    EXPORTED = 69
    """Of the export `number`: its totals; or a section, and nothing after the last one."""


class Address(NamedTuple):
    """Which process is meant."""

    layout: int
    shard: int
    incarnation: int


class Message(NamedTuple):
    """A frame taken apart; the body is a view of the frame."""

    kind: Kind
    address: Address
    session: int
    number: int
    flags: int
    body: memoryview

    @property
    def is_first(self) -> bool:
        """Of CONTENT: a load begins."""
        return bool(self.flags & _FIRST)

    @property
    def is_last(self) -> bool:
        """Of CONTENT: what the session has here and has not named in this load is emptied."""
        return bool(self.flags & _LAST)

    @property
    def is_session_over(self) -> bool:
        """Of FENCED: the session is retired or superseded; else another process was meant."""
        return bool(self.flags & _SESSION_OVER)

    @property
    def is_whole(self) -> bool:
        """Of EXCERPT and EXPORTED: every live session had loaded its content."""
        return bool(self.flags & _WHOLE)

    @property
    def begins_export(self) -> bool:
        """Of EXPORT."""
        return bool(self.flags & _BEGINS)

    @property
    def ends_export(self) -> bool:
        """Of EXPORT."""
        return bool(self.flags & _ENDS)

    @property
    def text(self) -> str:
        """Of FENCED and REFUSED."""
        return str(self.body[:_TEXT_BYTES_MAX], "utf-8", "replace")


def hello(to: Address, session: int) -> bytes:
    return _frame(Kind.HELLO, to, session)


def delta(to: Address, session: int, number: int, records: bytes) -> bytes:
    """`records`: delta records (docs/indexer.md) of this shard."""
    return _frame(Kind.DELTA, to, session, number, records)


def content(
    to: Address,
    session: int,
    number: int,
    lanes: Sequence[int],
    records: bytes,
    *,
    first: bool = True,
    last: bool = True,
) -> bytes:
    """`records` become all that `lanes` hold; without lanes they add to lanes of earlier parts."""
    named = struct.pack(f"<I{len(lanes)}I", len(lanes), *lanes)
    flags = (_FIRST if first else 0) | (_LAST if last else 0)
    return _frame(Kind.CONTENT, to, session, number, named + records, flags)


def fetch(to: Address, keys: Keys) -> bytes:
    """`keys`: block keys, uint64 [n]."""
    return _frame(Kind.FETCH, to, body=bytes(keys))


def touch(to: Address, segment_keys: Keys) -> bytes:
    """`segment_keys`: first keys of segments, uint64 [n]."""
    return _frame(Kind.TOUCH, to, body=bytes(segment_keys))


def begin_export(to: Address, number: int) -> bytes:
    """`number`: of the export, chosen by the asker at random; 64 bits, not 0."""
    return _frame(Kind.EXPORT, to, number=number, flags=_BEGINS)


def export_section(to: Address, number: int, section: int) -> bytes:
    """`section`: the one after that of the last answer, or the same once more; the first is 0."""
    return _frame(Kind.EXPORT, to, number=number, body=_U32.pack(section))


def end_export(to: Address, number: int) -> bytes:
    return _frame(Kind.EXPORT, to, number=number, flags=_ENDS)


def applied(asked: Message, number: int = 0) -> bytes:
    return _frame(Kind.APPLIED, asked.address, asked.session, number)


def resync(asked: Message, number: int) -> bytes:
    return _frame(Kind.RESYNC, asked.address, asked.session, number)


def fenced(asked: Message, why: str, *, session_over: bool) -> bytes:
    flags = _SESSION_OVER if session_over else 0
    return _frame(Kind.FENCED, asked.address, asked.session, body=_text(why), flags=flags)


def refused(why: str, asked: Message | None = None) -> bytes:
    """`asked`: None when the request could not even be taken apart."""
    address, session = (Address(0, 0, 0), 0) if asked is None else (asked.address, asked.session)
    return _frame(Kind.REFUSED, address, session, body=_text(why))


def excerpted(asked: Message, body: bytes, *, whole: bool) -> bytes:
    return _frame(Kind.EXCERPT, asked.address, asked.session, body=body, flags=_WHOLE if whole else 0)


def exported(asked: Message, body: bytes, *, whole: bool = False) -> bytes:
    flags = _WHOLE if whole else 0
    return _frame(Kind.EXPORTED, asked.address, asked.session, asked.number, body, flags)


def export_totals(entries: int, pairs: int) -> bytes:
    """Body of EXPORTED, when an export has begun: blocks, and pairs of a block and a lane."""
    return _TOTALS.pack(entries, pairs)


def session_bytes(frame: bytes) -> bytes:
    """Of which session it says that it is, to be compared; nothing else of it is looked at."""
    return frame[_SESSION_AT : _SESSION_AT + 8]


def is_fetch(frame: bytes) -> bool:
    """Whether it says so; nothing else of it is looked at."""
    return frame[_KIND_AT : _KIND_AT + 1] == bytes([Kind.FETCH])


def is_export(frame: bytes) -> bool:
    """Whether it says so; nothing else of it is looked at."""
    return frame[_KIND_AT : _KIND_AT + 1] == bytes([Kind.EXPORT])


def decode_message(frame: bytes) -> Message:
    """Raises DecodeError for what is no frame, of another version, or of a kind that this one lacks.

    Of the body only the length is checked.
    """
    if frame[:_VERSION_AT] != _MAGIC or len(frame) <= _KIND_AT:
        raise DecodeError(f"frame: expected to begin with {_MAGIC!r}, got {bytes(frame[:8])!r}")
    if frame[_VERSION_AT] != VERSION:
        raise DecodeError(f"frame: expected version {VERSION}, got {frame[_VERSION_AT]}")
    if len(frame) < HEADER_BYTES:
        raise DecodeError(f"frame: expected at least {HEADER_BYTES} bytes, got {len(frame)}")
    _, _, code, flags, layout, shard, incarnation, session, number = _HEADER.unpack_from(frame)
    try:
        kind = Kind(code)
    except ValueError:
        raise DecodeError(f"frame: expected a kind of version {VERSION}, got {code}") from None
    body = memoryview(frame)[HEADER_BYTES:]
    return Message(kind, Address(layout, shard, incarnation), session, number, flags, body)


def content_of(message: Message) -> tuple[list[int], memoryview]:
    """Lanes and records of CONTENT. Raises DecodeError when the body is cut short, or names too many."""
    body = message.body
    n_lanes = _U32.unpack_from(body)[0] if len(body) >= _U32.size else 0
    if n_lanes > _LANES_MAX:
        raise DecodeError(f"content: expected at most {_LANES_MAX} lanes, got {n_lanes}")
    end = _U32.size * (1 + n_lanes)
    if len(body) < end:
        raise DecodeError(f"content: expected {max(end, _U32.size)} bytes of lanes, got {len(body)}")
    return list(struct.unpack_from(f"<{n_lanes}I", body, _U32.size)), body[end:]


def keys_of(message: Message) -> npt.NDArray[np.uint64]:
    """Keys of FETCH and TOUCH, uint64 [n]. Raises DecodeError when the body is no whole number of them."""
    if len(message.body) % KEY_BYTES:
        raise DecodeError(f"keys: expected a multiple of {KEY_BYTES} bytes, got {len(message.body)}")
    return np.frombuffer(message.body, dtype="<u8").astype(np.uint64, copy=False)


def section_of(message: Message) -> int:
    """Which section EXPORT asks for. Raises DecodeError when the body is no number."""
    if len(message.body) != _U32.size:
        raise DecodeError(f"export: expected a number of {_U32.size} bytes, got {len(message.body)}")
    number: int = _U32.unpack(message.body)[0]
    return number


def totals_of(message: Message) -> tuple[int, int]:
    """Entries and pairs of EXPORTED, when an export has begun. Raises DecodeError when they are missing."""
    if len(message.body) != _TOTALS.size:
        raise DecodeError(f"exported: expected totals of {_TOTALS.size} bytes, got {len(message.body)}")
    entries, pairs = _TOTALS.unpack(message.body)
    return entries, pairs


def _text(why: str) -> bytes:
    return why.encode("utf-8", "replace")[:_TEXT_BYTES_MAX]


def _frame(
    kind: Kind, address: Address, session: int = 0, number: int = 0, body: bytes = b"", flags: int = 0
) -> bytes:
    try:
        header = _HEADER.pack(_MAGIC, VERSION, kind, flags, *address, session, number)
    except struct.error as error:
        raise InputError(f"frame: {address}, session {session}, number {number}: {error}") from error
    return header + body
