"""An atlas whose index lies in tables of its own process."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, BinaryIO, Union

from kvatlas.index.choosing.looking import Look
from kvatlas.index.choosing.serving import ServingPod
from kvatlas.index.dumps.dump_file import DumpReader
from kvatlas.index.dumps.meta import DumpTotals
from kvatlas.index.keys import Algorithm, TokenIds
from kvatlas.index.reading import Asked, PromptReader, match
from kvatlas.index.shards import ShardedIndex
from kvatlas.ingest.atlas_dump import AtlasDump, AtlasGuests
from kvatlas.ingest.atlas_fleet import AtlasFleet
from kvatlas.ingest.atlas_serving import AtlasServing
from kvatlas.ingest.config import AtlasConfig
from kvatlas.ingest.fleet_dump import dump_fleet
from kvatlas.ingest.fleet_mirror import FleetMirror
from kvatlas.ingest.numbering import CountedNumbers
from kvatlas.ingest.outlet import TableOutlet
from kvatlas.ingest.shown_dump import LoadedReport

if TYPE_CHECKING:
    from typing_extensions import Unpack


DumpTarget = Union[str, "os.PathLike[str]", BinaryIO]
"""A path, or a stream, to write to or to read."""


class TableHome:
    """The parts of an atlas that differ where its index is its own."""

    def __init__(self, config: AtlasConfig, clock_s: Callable[[], float]) -> None:
        self._algorithm: Algorithm = config.algorithm
        self._hash_seed = secrets.token_hex(16) if config.hash_seed is None else config.hash_seed
        self.index = ShardedIndex(config.shards, table_bytes_max=config.table_bytes_max)
        numbers = CountedNumbers()
        self.mirror = FleetMirror(
            config,
            TableOutlet(self.index),
            numbers,
            hash_seed=self._hash_seed,
            clock_s=clock_s,
        )
        guests = AtlasGuests(self.index, numbers)
        self._dump = AtlasDump(
            self.mirror,
            guests,
            algorithm=config.algorithm,
            hash_seed=self._hash_seed,
            workers_max=config.workers_max,
        )
        self.reads = PromptReader(
            AtlasFleet(self.mirror, guests),
            self.index,
            algorithm=config.algorithm,
            tier_weights=config.tier_weights,
        )
        self._serving = AtlasServing(self.mirror)
        self.set_serving = self._serving.set
        self.serving_pods: Callable[[], Mapping[str, ServingPod]] = self._serving.pods

    def look(self, token_ids: TokenIds, **asked: Unpack[Asked]) -> Look:
        """As `Atlas.look`."""
        version = self.mirror.part_version  # before: what changes meanwhile is seen by the next look
        question = self.reads.question(token_ids, **asked)
        matches = match(self.index, question)
        return Look(question, matches, self.reads.fleet, self.reads.weights, version)

    @property
    def serving_version(self) -> Hashable:
        """As `Atlas.serving_version`."""
        return self._serving.version

    def dump(self, to: DumpTarget) -> DumpTotals:
        """As `Atlas.dump`."""
        return dump_fleet(self.mirror, self.index, to, algorithm=self._algorithm, hash_seed=self._hash_seed)

    def load_dump(self, of: DumpTarget) -> LoadedReport:
        """As `Atlas.load_dump`."""
        with DumpReader(of) as dump:
            return self._dump.load(dump)

    def status(self) -> None:
        """There is no server."""

    def close(self) -> None:
        """Release the tables."""
        self.mirror.close()
