"""What one writer tells readers of its workers, as bytes in the server.

msgpack map: format, name, is_whole, says, part (a FleetPart); unknown fields are a later release's.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from kvatlas.index.errors import RemoteIndexError, quoted
from kvatlas.index.remote.fleet.settings import PART_BYTES_MAX
from kvatlas.index.view import FleetPart

_FORMAT = 1
_NUMBER_MAX = (1 << 31) - 1


class SessionPart(msgspec.Struct, frozen=True, kw_only=True):
    """One session's workers, and how far its blocks are."""

    format: int = _FORMAT
    name: str = ""
    """The writer's, for people."""
    is_whole: bool = False
    """The index holds all that this session's mirrors hold."""
    says: str = ""
    """Why not."""
    part: FleetPart = FleetPart()


_DECODER = msgspec.msgpack.Decoder(SessionPart)
_ENCODER = msgspec.msgpack.Encoder()


def encode_part(part: SessionPart) -> bytes:
    """Raises RemoteIndexError for one that no reader would take: too many workers."""
    data = _ENCODER.encode(part)
    if len(data) > PART_BYTES_MAX:
        raise RemoteIndexError(
            f"part of {part.name!r}: expected at most {PART_BYTES_MAX} bytes, got {len(data)} "
            f"for {len(part.part.workers)} workers"
        )
    return data


def decode_part(data: bytes) -> SessionPart:
    """Raises RemoteIndexError for bytes that are no part of this format."""
    if len(data) > PART_BYTES_MAX:
        raise RemoteIndexError(f"part: expected at most {PART_BYTES_MAX} bytes, got {len(data)}")
    try:
        part = _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteIndexError(f"part: expected msgpack of a SessionPart, got {quoted(error)}") from None
    if part.format != _FORMAT:
        raise RemoteIndexError(f"part: expected format {_FORMAT}, got {part.format}")
    strange = next((number for number in _numbers(part.part) if not 0 <= number <= _NUMBER_MAX), None)
    if strange is not None:
        raise RemoteIndexError(f"part: expected numbers from 0 to {_NUMBER_MAX}, got {strange}")
    return part


def _numbers(part: FleetPart) -> Iterator[int]:
    """All that are counted on when readers put parts together."""
    yield from part.block_sizes.values()
    yield from part.stores.values()
    for worker in part.workers:
        yield from (worker.number, worker.rank, worker.chunk_blocks)
        for group in worker.groups:
            yield from (group.lane, group.window_tokens, group.block_size_tokens)
