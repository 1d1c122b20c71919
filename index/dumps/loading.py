"""Loading a dump into an index that may hold other things, under other lanes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from kvatlas.index._native import renamed
from kvatlas.index.dumps.dump_file import DumpReader
from kvatlas.index.dumps.meta import DumpTotals


class Loadable(Protocol):
    """What of a `BlockIndex` a dump needs."""

    def load(self, content: Iterable[bytes]) -> None: ...


def renamed_sections(sections: Iterable[bytes], lanes: Mapping[int, int]) -> Iterator[bytes]:
    """Content records with other numbers for their lanes; those that the mapping lacks are left out."""
    for section in sections:
        yield renamed(section, lanes)


def load_dump(dump: DumpReader, index: Loadable, lanes: Mapping[int, int] | None = None) -> DumpTotals:
    """Every lane that the dump names, or that `lanes` lets through, becomes what the dump says.

    `lanes`: lane in the index for each of the dump's (`lanes_between`); None: they are the same. Raises
    DumpError for a torn dump, and then an index that loads all or nothing is as it was.
    """
    index.load(dump if lanes is None else renamed_sections(dump, lanes))
    assert dump.totals is not None, "load() reads its content to the end"
    return dump.totals
