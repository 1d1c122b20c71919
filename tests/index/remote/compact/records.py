"""Delta records and indexes for the tests of the compact format."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kvatlas.index.deltas import RECORD_HEAD, clear_lanes
from kvatlas.index.remote.compact.remote_index import RemoteIndex
from kvatlas.index.remote.connection.connection import RemoteConnection
from kvatlas.index.remote.connection.settings import RemoteSettings

Keys = npt.NDArray[np.uint64]
ADD, REMOVE, CLOSE, OPEN = 1, 2, 4, 5
GPU, CPU = 1, 2


def chain(blocks: int, seed: int = 0) -> Keys:
    return np.random.default_rng(seed).integers(2, 2**63, blocks, dtype=np.uint64)


def told(
    op: int, lane: int, keys: Keys, *, tiers: int = GPU, first: int = 0, last: int | None = None
) -> bytes:
    """Records of some blocks of a chain, a segment a record."""
    last = len(keys) if last is None else last
    out = b""
    for begin in range(0, len(keys), 128):
        some = keys[max(first, begin) : min(last, begin + 128)]
        if len(some):
            out += RECORD_HEAD.pack(op, tiers, 0, len(some), lane, 0, int(keys[begin])) + some.tobytes()
    return out


def cleared(lane: int) -> bytes:
    return clear_lanes([lane])


def closed(lane: int) -> bytes:
    return RECORD_HEAD.pack(CLOSE, 0, 0, 0, lane, 0, 0)


def opened(lane: int) -> bytes:
    return RECORD_HEAD.pack(OPEN, 0, 0, 0, lane, 0, 0)


def open_index(url: str, **settings: Any) -> RemoteIndex:
    """With times that a busy machine keeps to."""
    times = {
        "timeout_ms": 20_000,
        "write_timeout_ms": 20_000,
        "connect_timeout_ms": 20_000,
        "backoff_ms_max": 1,
    }
    whole = RemoteSettings(url=url, **{**times, **settings})
    return RemoteIndex(RemoteConnection(whole), whole)


def held(index: RemoteIndex, keys: Keys) -> list[dict[int, int]]:
    return [dict(holders) for holders in index.lookup(keys)]


def blocks_of(index: RemoteIndex, keys: Keys, lane: int) -> int:
    """How many leading blocks the lane holds."""
    rows = held(index, keys)
    return next((i for i, row in enumerate(rows) if lane not in row), len(rows))
