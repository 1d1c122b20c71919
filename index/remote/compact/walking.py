"""All of a remote index, a few segments at a time: for exports, and for keys that may lie anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kvatlas.index._native import remote_page, sections_of
from kvatlas.index.errors import DecodeError, RemoteIndexError
from kvatlas.index.remote.compact.lane_map import CLOSED, LOSSY, LaneMap, read_lane_map
from kvatlas.index.remote.compact.server import Server

_SEGMENTS = 16
_SECTION_KEYS = 1 << 16


class Page(NamedTuple):
    """Some segments. Lanes are those of the map; nobody else's blocks are in it."""

    keys: npt.NDArray[np.uint64]
    """[n]"""
    tags: npt.NDArray[np.uint32]
    """[n]"""
    sets: npt.NDArray[np.uint32]
    """[n], from 0"""
    counts: npt.NDArray[np.uint32]
    """[n_sets]"""
    elements: npt.NDArray[np.uint32]
    """lane << 8 | tier bits, of one set after the other"""


def pages(server: Server, lanes: LaneMap) -> Iterator[Page]:
    """Each segment once, as it was at some moment of the walk; a round trip a page.

    Segments that begin to exist meanwhile may be missing. Raises RemoteIndexError.
    """
    for bucket in range(server.names.n_buckets):
        seen: set[int] = set()
        cursor = b"0"
        while True:
            cursor, content = _turn(server, bucket, cursor)
            page = _page_of(server, content, lanes)
            tags = np.unique(page.tags).tolist()
            again = np.isin(page.tags, np.array([tag for tag in tags if tag in seen], np.uint32))
            seen.update(tags)
            if not again.all():
                yield page._replace(keys=page.keys[~again], tags=page.tags[~again], sets=page.sets[~again])
            if cursor == b"0":
                break


def _turn(server: Server, bucket: int, cursor: bytes) -> tuple[bytes, bytes]:
    names = server.names
    keys = [names.life(bucket), names.use(bucket)]
    after, content = server.tell(
        [server.scripts.page.command(keys, [cursor, _SEGMENTS, names.segments(bucket)])]
    )[0]
    return after, content


def _page_of(server: Server, content: bytes, lanes: LaneMap) -> Page:
    try:
        keys, tags, sets, counts, elements, n_foreign = remote_page(content, lanes.native)
    except DecodeError as error:
        raise RemoteIndexError(f"{server.where}: {error}") from None
    server.counts.foreign_values += n_foreign
    return Page(keys, tags, sets, counts, elements)


def content_of_index(server: Server) -> Iterator[bytes]:
    """All that is held, as content records: the lanes of one moment, each segment of some moment after it."""
    lanes = read_lane_map(server)
    gathered: list[Page] = []
    for page in pages(server, lanes):
        gathered.append(page)
        if sum(len(one.keys) for one in gathered) >= _SECTION_KEYS:
            yield from _sections(gathered, lanes)
            gathered = []
    named = np.array(sorted(lanes.phys_of), np.uint32)
    yield from _sections(gathered, lanes, named)


def _sections(
    gathered: list[Page], lanes: LaneMap, named: npt.NDArray[np.uint32] | None = None
) -> list[bytes]:
    """`named`: lanes to name besides those that hold something."""
    if not gathered and (named is None or not len(named)):
        return []
    keys, tags, sets, counts, elements = (_joined(gathered, i) for i in range(5))
    held = (elements >> 8).astype(np.uint32)
    numbers = np.unique(held if named is None else np.concatenate([held, named]))
    flags = [(int(lane), lanes.flags.get(int(lane), 0)) for lane in numbers]
    return sections_of(
        numbers.tolist(),
        keys.astype(np.uint64),
        tags,
        sets,
        counts,
        elements,
        closed=tuple(lane for lane, has in flags if has & CLOSED),
        lossy=tuple(lane for lane, has in flags if has & LOSSY),
    )


def _joined(gathered: list[Page], field: int) -> npt.NDArray[Any]:
    parts = [page[field] for page in gathered]
    if field == 2:  # numbers of sets go on from page to page
        begins = np.cumsum([0, *(len(page.counts) for page in gathered)])
        parts = [part + np.uint32(begin) for part, begin in zip(parts, begins, strict=False)]
    return np.concatenate(parts) if parts else np.empty(0, np.uint32)


def find_keys(server: Server, keys: npt.NDArray[np.uint64]) -> list[list[tuple[int, int]]]:
    """For each key, wherever it lies, the lanes that hold it and their tier bits. Walks the whole index."""
    found: list[dict[int, int]] = [{} for _ in keys]
    places: dict[int, list[int]] = {}
    for place, key in enumerate(keys.tolist()):
        places.setdefault(key or 1, []).append(place)
    wanted = np.fromiter(places, np.uint64, len(places))
    for page in pages(server, read_lane_map(server)):
        begins = [0, *np.cumsum(page.counts).tolist()]
        for i in np.flatnonzero(np.isin(page.keys, wanted)).tolist():
            of_set = page.elements[begins[page.sets[i]] : begins[page.sets[i] + 1]].tolist()
            for place in places[int(page.keys[i])]:
                for element in of_set:
                    found[place][element >> 8] = found[place].get(element >> 8, 0) | element & 0xFF
    return [sorted(of_key.items()) for of_key in found]
