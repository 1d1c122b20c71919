"""A running cluster, written to a file or a stream as it is at one moment."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from kvatlas.actors.moving.cluster_desk import ClusterDesk
from kvatlas.actors.moving.cut import ClusterCut, CutSettings, take_cut
from kvatlas.actors.orders import ReaderSecrets
from kvatlas.actors.reading.connection import DirectoryCalls
from kvatlas.actors.reading.fleet_parts import algorithm_of
from kvatlas.index.dumps.dump_file import DumpWriter
from kvatlas.index.dumps.meta import DumpMeta, keyspaces_of

Said = Callable[[str], object]


class DumpReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was written."""

    workers: int
    entries: int
    """Blocks."""
    pairs: int
    """Of a block and a lane."""
    bytes: int
    """Of content."""
    seconds: float
    """From the first question to the file's name."""
    held_s: float
    """For so long changes waited in the subscribers."""


class LiveContent:
    """A cluster at one moment, as a dump would have it. To be read once."""

    def __init__(self, cut: ClusterCut, secrets: ReaderSecrets, created_s: float, said: Said) -> None:
        self.cut = cut
        self.parts = tuple(one.part for one in cut.parts)
        self.meta = DumpMeta(
            created_s=created_s,
            cluster=cut.view.cluster,
            keyspaces=keyspaces_of(self.parts, algorithm_of(secrets), secrets.hash_seed),
            parts=self.parts,
        )
        self._said = said

    def sections(self) -> Iterator[bytes]:
        """Content records of all shards. Raises ClusterError where a shard is gone meanwhile."""
        n_shards = len(self.cut.exports)
        for number, export in enumerate(self.cut.exports, 1):
            self._said(f"fetching shard {number} of {n_shards}")
            yield from export.sections()


@contextlib.contextmanager
def live_content(
    calls: DirectoryCalls, *, said: Said = lambda _: None, settings: CutSettings | None = None
) -> Iterator[LiveContent]:
    """A cluster as it is now; `said` is told what is going on. Raises ClusterError as `take_cut`."""
    with ClusterDesk(calls) as desk:
        created_s = time.time()
        cut = take_cut(desk, settings, said=said)
        try:
            yield LiveContent(cut, desk.secrets, created_s, said)
        finally:
            cut.end()


def dump_cluster(calls: DirectoryCalls, to: Path | BinaryIO, *, said: Said = lambda _: None) -> DumpReport:
    """Write a cluster to a file, which appears when it is complete, or to a stream.

    Raises ClusterError where the cluster cannot be dumped or loses a shard meanwhile, DumpError where
    nothing can be written.
    """
    began_s = time.monotonic()
    with live_content(calls, said=said) as live, DumpWriter(to, live.meta) as writer:
        for section in live.sections():
            writer.put(section)
        totals = writer.finish()
        cut = live.cut
    return DumpReport(
        workers=sum(len(part.workers) for part in live.parts),
        entries=sum(export.entries for export in cut.exports),
        pairs=cut.pairs,
        bytes=totals.section_bytes,
        seconds=time.monotonic() - began_s,
        held_s=cut.held_s,
    )
