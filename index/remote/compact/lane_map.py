"""Which physical lanes the lanes are, as read from the server at one version."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kvatlas.index._native import RemoteLanes
from kvatlas.index.errors import DecodeError, RemoteIndexError
from kvatlas.index.remote.compact.server import Server, command
from kvatlas.index.remote.connection.commands import Command

CLOSED, LOSSY = 1, 2
_LANE = struct.Struct("<IB")
LANES_MAX = 65_535
PHYS_MAX = (1 << 24) - 1


class LaneMap(NamedTuple):
    """Immutable. Physical numbers are never used again, so an old map errs towards "not held" only."""

    id: bytes | None
    """Of the index; None: there is none, nothing is held."""
    version: int
    phys_of: dict[int, int]
    flags: dict[int, int]
    native: RemoteLanes

    @property
    def mark(self) -> tuple[bytes | None, int]:
        """What changes with the map."""
        return self.id, self.version


NO_LANES = LaneMap(None, 0, {}, {}, RemoteLanes(np.empty(0, np.uint32)))


def mark_commands(server: Server) -> list[Command]:
    """What tells whether a map is still the newest."""
    names = server.names
    return [command(names.meta, "HGET", "id"), command(names.version, "GET")]


def mark_of(answers: Sequence[bytes | None]) -> tuple[bytes | None, int]:
    return answers[0], number_of(answers[1])


def number_of(word: bytes | None) -> int:
    """A counter's value; what is no number counts as 0."""
    return int(word) if word is not None and len(word) < 20 and word.isdigit() else 0


def read_commands(server: Server) -> list[Command]:
    """What a map is made from. The version first: a map is never older than its own says."""
    names = server.names
    meta = command(names.meta, "HMGET", "id", "format", "buckets")
    return [meta, command(names.version, "GET"), command(names.lanes, "HGETALL")]


def lane_map_of(server: Server, answers: list[list[bytes | None]]) -> LaneMap:
    """Raises RemoteIndexError where the index is of another format, or the map is none."""
    (index_id, version, n_buckets), map_version, flat = answers
    server.counts.lane_reads += 1
    if index_id is None:
        return NO_LANES._replace(version=number_of(map_version))  # type: ignore[arg-type]
    server.check_format(version, n_buckets)
    phys_of, flags = _read_pairs(_pairs(flat), server)
    pairs = np.array([[phys, lane] for lane, phys in phys_of.items()], np.uint32).reshape(-1)
    try:
        native = RemoteLanes(pairs)
    except DecodeError as error:
        raise RemoteIndexError(f"{server.where}: {error}") from None
    return LaneMap(index_id, number_of(map_version), phys_of, flags, native)  # type: ignore[arg-type]


def _read_pairs(
    pairs: Sequence[tuple[bytes, bytes]], server: Server
) -> tuple[dict[int, int], dict[int, int]]:
    """Physical lane and flags of each lane, without what is not ours."""
    phys_of: dict[int, int] = {}
    flags: dict[int, int] = {}
    for name, value in pairs:
        if name.isdigit() and len(name) <= 5 and int(name) < LANES_MAX and len(value) == _LANE.size:
            phys, flag = _LANE.unpack(value)
            if 1 <= phys <= PHYS_MAX:
                phys_of[int(name)], flags[int(name)] = phys, flag
    # One that two lanes claim is nobody's: which of them has written there, nobody knows.
    uses = Counter(phys_of.values())
    phys_of = {lane: phys for lane, phys in phys_of.items() if uses[phys] == 1}
    server.counts.foreign_lanes += len(pairs) - len(phys_of)
    return phys_of, flags


def _pairs(flat: object) -> list[tuple[bytes, bytes]]:
    # RESP2 tells a HASH as a flat list, RESP3 as a map.
    if isinstance(flat, dict):
        return list(flat.items())
    assert isinstance(flat, list)
    return list(zip(flat[::2], flat[1::2], strict=True))


def read_lane_map(server: Server) -> LaneMap:
    """One round trip. Raises RemoteIndexError."""
    return lane_map_of(server, server.ask(read_commands(server)))
