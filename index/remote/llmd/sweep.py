"""Going through all blocks on a server, to take lanes out or to tell everything.

llm-d keeps no list of what a pod holds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kvatlas.index._native import Table, sections_of
from kvatlas.index.remote.llmd.answers import Held
from kvatlas.index.remote.llmd.fields import FieldReader, Holders
from kvatlas.index.remote.llmd.server import LlmdServer
from kvatlas.index.remote.llmd.writing import Change

_SECTION_KEYS = 1 << 17


class Swept(NamedTuple):
    """What a sweep met."""

    wrong_type: int
    oversized: int


def sweep(
    server: LlmdServer, reader: FieldReader, lanes: Collection[int], keep: Table | None, page_s: float
) -> Swept:
    """Remove what these lanes hold, in any tier and however it was written, except what they hold in `keep`.

    Up to three round trips for each thousand blocks on the server, whoever holds them. Blocks of which there
    is too much to be told are not looked at, and counted.
    """
    wanted = frozenset(lanes)
    wrong_type = oversized = 0
    for keys in server.pages():
        held = server.held(keys, page_s)
        wrong_type += held.wrong_type + server.change(_surplus(keys, held, reader, wanted, keep))
        oversized += held.oversized
    return Swept(wrong_type, oversized)


def _surplus(
    keys: list[bytes], held: Held, reader: FieldReader, lanes: frozenset[int], keep: Table | None
) -> list[Change]:
    copies = [[(field, reader.copy(field)) for field in fields] for fields in held.sets]
    kept = _kept(keys, keep)
    # Neighbours hold the same and keep the same, so there are few different answers.
    removals: dict[tuple[bytes, ...], list[bytes]] = {}
    known: dict[tuple[int, Holders], tuple[bytes, ...]] = {}
    for key, number, keeps in zip(keys, held.numbers(), kept, strict=True):
        if number < 0:
            continue
        fields = known.get((number, keeps))
        if fields is None:
            masks = dict(keeps)
            fields = known[number, keeps] = tuple(
                field
                for field, copy in copies[number]
                if copy is not None and copy[0] in lanes and not masks.get(copy[0], 0) & copy[1]
            )
        if fields:
            removals.setdefault(fields, []).append(key)
    return [Change(False, fields, _numbers_of(some)) for fields, some in removals.items()]


def _kept(keys: list[bytes], keep: Table | None) -> list[Holders]:
    if keep is None:
        return [()] * len(keys)
    return [tuple(holders) for holders in keep.lookup(_numbers_of(keys))]


def _numbers_of(keys: list[bytes]) -> npt.NDArray[np.uint64]:
    return np.array([int(key) for key in keys], np.uint64)


def content(
    server: LlmdServer, reader: FieldReader, page_s: float, note: Callable[[Swept], None]
) -> Iterator[bytes]:
    """All that is on the server, as content records; `note` hears what was passed over."""
    gathered = _Gathered()
    for keys in server.pages():
        held = server.held(keys, page_s)
        note(Swept(held.wrong_type, held.oversized))
        gathered.add(keys, held, reader)
        if len(gathered.keys) >= _SECTION_KEYS:
            yield from gathered.sections()
            gathered = _Gathered()
    yield from gathered.sections()


class _Gathered:
    """Blocks for one section."""

    def __init__(self) -> None:
        self.keys: dict[int, int] = {}
        """The number of its set, by block key: a key that is scanned twice counts once."""
        self._sets: dict[Holders, int] = {}

    def add(self, keys: list[bytes], held: Held, reader: FieldReader) -> None:
        told = [reader.holders(fields) for fields in held.sets]
        for key, number in zip(keys, held.numbers(), strict=True):
            if number >= 0 and told[number]:
                self.keys[int(key)] = self._sets.setdefault(told[number], len(self._sets))

    def sections(self) -> Sequence[bytes]:
        if not self.keys:
            return []
        lanes = sorted({lane for holders in self._sets for lane, _ in holders})
        elements = [lane << 8 | mask for holders in self._sets for lane, mask in holders]
        return sections_of(
            lanes,
            np.fromiter(self.keys, np.uint64, len(self.keys)),
            None,
            np.fromiter(self.keys.values(), np.uint32, len(self.keys)),
            np.array([len(holders) for holders in self._sets], np.uint32),
            np.array(elements, np.uint32),
        )
