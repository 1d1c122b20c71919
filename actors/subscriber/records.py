"""Delta records, cut where one ends. Their form: docs/indexer.md."""

from __future__ import annotations

import struct

from kvatlas.index.deltas import RECORD_HEAD

_COUNT_AT = 4
_COUNT = struct.Struct("<I")


def split_records(records: bytes, bytes_max: int) -> list[bytes]:
    """The same records in pieces of at most so many bytes, or of one record; one piece at least."""
    if len(records) <= bytes_max:
        return [records]
    pieces = []
    begin = at = 0
    while at < len(records):
        (count,) = _COUNT.unpack_from(records, at + _COUNT_AT)
        end = at + RECORD_HEAD.size + 8 * count
        if end - begin > bytes_max and at > begin:
            pieces.append(records[begin:at])
            begin = at
        at = end
    pieces.append(records[begin:])
    return pieces
