"""The index of an embedded atlas, written to a file or a stream as it is at one moment."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import BinaryIO, Protocol

from kvatlas.index.dumps.dump_file import write_dump
from kvatlas.index.dumps.meta import DumpMeta, DumpTotals, keyspaces_of
from kvatlas.index.keys import Algorithm
from kvatlas.index.view import FleetPart
from kvatlas.ingest.fleet_mirror import FleetMirror

_ATTEMPTS = 8


class Exported(Protocol):
    """Where the mirrors' changes lie: a `BlockIndex`."""

    def export(self) -> Iterator[bytes]:
        """Content records, all of the moment of this call."""
        ...


def dump_fleet(
    mirror: FleetMirror,
    index: Exported,
    to: str | os.PathLike[str] | BinaryIO,
    *,
    algorithm: Algorithm,
    hash_seed: str,
) -> DumpTotals:
    """Write what `index` holds of the fleet; writers wait only where the fleet changes again and again.

    Raises DumpError where nothing can be written.
    """
    created_s = time.time()
    part, sections = _one_moment(mirror, index)
    spaces = keyspaces_of([part], algorithm, hash_seed)
    meta = DumpMeta(created_s=created_s, keyspaces=spaces, parts=(part,))
    return write_dump(to, meta, sections)


def _one_moment(mirror: FleetMirror, index: Exported) -> tuple[FleetPart, Iterator[bytes]]:
    """A part, and content in which its lanes mean what it says."""
    for _ in range(_ATTEMPTS):
        version, part = mirror.part_version, mirror.part()
        sections = index.export()
        if mirror.part_version == version:
            return part, sections
    with mirror.lock:
        return mirror.part(), index.export()
