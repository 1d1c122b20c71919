"""Content records (docs/dump_format.md) as delta records, for shards that are told of them by messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from kvatlas.index._native import content_of, deltas_of
from kvatlas.index.deltas import close_lanes
from kvatlas.index.errors import DumpError


class ContentRecords(NamedTuple):
    """What fills lanes that are empty."""

    lanes: tuple[int, ...]
    """All that the content names, ascending."""
    records: bytes
    """Of any shard."""


def records_of(sections: Iterable[bytes], lanes: Mapping[int, int] | None = None) -> ContentRecords:
    """`lanes`: what they are called here; those that it lacks are left out. None: as there.

    Raises DumpError for what is no content, or does not name segments; InputError where two lanes get one
    number.
    """
    named: set[int] = set()
    open_: set[int] = set()
    pieces: list[bytes] = []
    for section in sections:
        view = content_of(section)
        if not view.knows_tags:
            raise DumpError("content: expected one that names segments, to be divided among shards, got none")
        here = view.lanes if lanes is None else [lanes[lane] for lane in view.lanes if lane in lanes]
        closed = view.closed if lanes is None else [lanes[lane] for lane in view.closed if lane in lanes]
        named.update(here)
        open_.update(set(here) - set(closed))
        pieces += deltas_of(section, lanes, 1)
    return ContentRecords(tuple(sorted(named)), b"".join([*pieces, close_lanes(sorted(named - open_))]))
