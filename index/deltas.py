"""Delta records as Python writes and cuts them; native code makes the others (native/delta.hpp)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from kvatlas.index._native import lanes_of
from kvatlas.index.errors import InputError

RECORD_HEAD = struct.Struct("<BBHIIIQ")
"""Op, tier bits, 0, count of keys, lane, 0, segment key; the keys follow, 8 bytes each."""
_CLEAR_LANE, _CLOSE_LANE = 3, 4


def clear_lanes(lanes: Iterable[int]) -> bytes:
    """One record a lane: nothing is held by it any more."""
    return b"".join(RECORD_HEAD.pack(_CLEAR_LANE, 0, 0, 0, lane, 0, 0) for lane in lanes)


def close_lanes(lanes: Iterable[int]) -> bytes:
    """One record a lane: what it holds is closed under prefixes."""
    return b"".join(RECORD_HEAD.pack(_CLOSE_LANE, 0, 0, 0, lane, 0, 0) for lane in lanes)


def require_lanes(delta: bytes, lanes: Sequence[int]) -> None:
    """Raise InputError where a delta is malformed, or has records of other lanes than these."""
    others = set(lanes_of(delta)).difference(lanes)
    if others:
        raise InputError(f"delta: expected records of the lanes to be replaced, got lane {min(others)}")
