"""Where the shards of a layout are read: in shared memory, by messages, or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kvatlas.actors.orders import Replica
from kvatlas.actors.reading.fetcher import Fetched, Fetcher, fetch_from
from kvatlas.index._native import SEGMENT_BLOCKS, Excerpt, Index, Roster, Source, TableReader, shard_of
from kvatlas.index.errors import InputError, TableFileError
from kvatlas.index.shards import Matches, Strategy, lookup, match

Keys = npt.NDArray[np.uint64]
NOTHING: Source = Excerpt([], [])
"""A shard that holds no block."""


class Attached(NamedTuple):
    """A shard whose table is looked at in shared memory."""

    replica: Replica
    table: TableReader


class ShardSources:
    """How each shard of one layout is read. Immutable; any thread may read it."""

    def __init__(
        self, n_shards: int, attached: Mapping[int, Attached], asked: Mapping[int, list[Fetcher]]
    ) -> None:
        """By shard; one that is in neither is missing."""
        self.n_shards = n_shards
        self.attached = attached
        self.asked = asked
        self.tables: list[Source] = [
            attached[shard].table if shard in attached else NOTHING for shard in range(n_shards)
        ]
        self._readers = [at.table for at in attached.values()]
        self._all_attached = len(attached) == n_shards

    def shards_of(self, keys: Keys) -> set[int]:
        """The shards that a prompt touches."""
        return {shard_of(first, self.n_shards) for first in keys[::SEGMENT_BLOCKS].tolist()}

    def is_whole(self, keys: Keys, fetched: Mapping[int, Fetched | None] | None = None) -> bool:
        """Whether all shards that the prompt touches have all that they should."""
        if self._all_attached and all(table.whole for table in self._readers):
            return True
        return all(self._is_whole(shard, fetched or {}) for shard in self.shards_of(keys))

    def _is_whole(self, shard: int, fetched: Mapping[int, Fetched | None]) -> bool:
        if shard in self.attached:
            return self.attached[shard].table.whole
        answer = fetched.get(shard)
        return answer is not None and answer.is_whole

    def ask(self, prompts: Sequence[Keys]) -> dict[int, Future[Fetched | None]]:
        """Ask the shards that cannot be looked at for what they know of these prompts, by shard."""
        wanted: dict[int, dict[int, Keys]] = {}
        for keys in prompts:
            for at in range(0, len(keys), SEGMENT_BLOCKS):
                shard = shard_of(int(keys[at]), self.n_shards)
                if shard in self.asked:
                    segment = keys[at : at + SEGMENT_BLOCKS]
                    # Keys are chained: the last one stands for all before it, so prompts share a segment.
                    wanted.setdefault(shard, {})[int(segment[-1])] = segment
        return {
            shard: fetch_from(self.asked[shard], np.concatenate(list(segments.values())))
            for shard, segments in wanted.items()
        }


class TablesIndex:
    """Shards, as far as they can be looked at, matched as one."""

    def __init__(
        self, sources: ShardSources, roster: Roster, fetched: Mapping[int, Fetched | None] | None = None
    ) -> None:
        """`fetched`: what shards that cannot be looked at have answered."""
        self._sources = sources
        self._roster = roster
        self._fetched = dict(fetched or {})
        self._tables = list(sources.tables)
        for shard, answer in self._fetched.items():
            try:
                self._tables[shard] = answer.source() if answer is not None else NOTHING
            except (InputError, TableFileError):  # no excerpt at all, or no memory for what it says
                self._fetched[shard] = None
        self._index = Index(self._tables, roster)

    def with_fetched(self, fetched: Mapping[int, Fetched | None]) -> TablesIndex:
        """The same, and what the other shards have answered."""
        return TablesIndex(self._sources, self._roster, fetched)

    def of_nothing(self) -> TablesIndex:
        """The same workers, without a shard: where tables vanish faster than they can be found."""
        return TablesIndex(ShardSources(self._sources.n_shards, {}, {}), self._roster)

    def report_use(self) -> None:
        """Have the shards that have answered told which segments a sample of the matches has used."""
        for answer in self._fetched.values():
            if answer is not None:
                answer.report_use()

    def match(
        self,
        keys: Keys,
        allowed: bytes | bytearray | None = None,
        *,
        prompt_tokens: int = 0,
        block_size_tokens: int = 0,
        strategy: Strategy = "longest_prefix",
    ) -> Matches:
        """As `ShardedIndex.match`. Raises StaleTableError when the writer of a table is gone."""
        is_whole = self._sources.is_whole(keys, self._fetched)
        return match(self._index, keys, allowed, prompt_tokens, block_size_tokens, strategy, is_whole)

    def lookup(self, keys: Keys) -> list[list[tuple[int, int]]]:
        """As `ShardedIndex.lookup`. Raises StaleTableError when the writer of a table is gone."""
        return lookup(self._tables, keys)
