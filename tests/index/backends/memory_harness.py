"""Tables of this process."""

from __future__ import annotations

from kvatlas.index.block_index import BlockIndex
from kvatlas.index.shards import ShardedIndex
from tests.index.backends.harness import Exact


class TablesHarness(Exact):
    def __init__(self, n_shards: int) -> None:
        self._n_shards = n_shards
        self.needs_segments = n_shards > 1

    def make(self) -> BlockIndex:
        return ShardedIndex(self._n_shards, table_bytes_max=1 << 26)

    def close(self) -> None: ...
