"""The residency index of one process: shards of native tables, matched as one.

A block's shard is chosen by the key of its segment's first block (128 blocks), so a prompt of 8k
tokens touches at most four shards however many there are. Answers are the same for every number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from kvatlas.index._native import (
    Index,
    Roster,
    Snapshot,
    Source,
    Table,
    load_content,
    route,
    snapshot,
)
from kvatlas.index.deltas import clear_lanes, require_lanes
from kvatlas.index.errors import InputError

Strategy = Literal["reusable", "longest_prefix"]
"""What a match counts: the blocks that the worker's engine would not compute again (docs/indexer.md,
matching), or the leading run of blocks held in any tier."""


class Matches(NamedTuple):
    """For each worker that has a block of the chain at least, how much of it."""

    workers: npt.NDArray[np.uint32]
    """[n] worker numbers, in no particular order."""
    blocks: npt.NDArray[np.uint32]
    """[n] leading blocks that count."""
    tier_blocks: npt.NDArray[np.uint32]
    """[n, 5] the same by tier: gpu, cpu, disk, storage, unknown."""
    slots_probed: int
    """Table slots that the lookup read."""
    partial_rows: tuple[int, ...]
    """Rows whose last block is reused but for the prompt's last token; nearly always none."""
    is_whole: bool = True
    """Every shard that the prompt touches was there, with the content of all workers."""


def match(
    index: Index,
    keys: npt.NDArray[np.uint64],
    allowed: bytes | bytearray | None,
    prompt_tokens: int,
    block_size_tokens: int,
    strategy: Strategy,
    is_whole: bool = True,
) -> Matches:
    """Match a chain of block keys [n_blocks]; see `ShardedIndex.match`."""
    if strategy == "longest_prefix" or len(keys) == 0:
        return Matches(*index.match(keys, allowed), is_whole)
    if block_size_tokens < 1:
        raise InputError(f"block_size_tokens: expected at least 1, got {block_size_tokens}")
    return Matches(*index.match(keys, allowed, prompt_tokens, block_size_tokens), is_whole)


def lookup(sources: Sequence[Source], keys: npt.NDArray[np.uint64]) -> list[list[tuple[int, int]]]:
    """For each key, the lanes that hold it and their tier bits, over all shards."""
    by_shard = [source.lookup(keys) for source in sources]
    return [[holder for shard in holders for holder in shard] for holders in zip(*by_shard, strict=True)]


class ShardedIndex:
    """S tables and the roster of workers. Any thread may call any method; readers never wait."""

    def __init__(self, shards: int = 1, *, table_bytes_max: int = 1 << 30) -> None:
        """`table_bytes_max` is the byte budget of each table, at least 4 MiB."""
        if not 1 <= shards <= 1024:
            raise InputError(f"shards: expected 1 to 1024, got {shards!r}")
        self.tables = [Table(budget_bytes=table_bytes_max) for _ in range(shards)]
        self.roster = Roster()
        self._index = Index(self.tables, self.roster)

    @property
    def n_shards(self) -> int:
        return len(self.tables)

    def apply(self, deltas: Sequence[bytes]) -> None:
        """Apply delta records (docs/indexer.md), one buffer a shard.

        Raises InputError, and applies nothing of that buffer, when one is malformed.
        """
        if len(deltas) != len(self.tables):
            raise InputError(f"deltas: expected {len(self.tables)} buffers, got {len(deltas)}")
        for table, delta in zip(self.tables, deltas, strict=True):
            if delta:
                table.apply(delta)

    def replace(self, lanes: Sequence[int], delta: bytes) -> None:
        """All that these lanes hold becomes what the delta, of all shards, leaves in empty ones.

        In each table they change at once for who looks. Raises InputError, and changes nothing, for a
        malformed delta or one that names other lanes.
        """
        require_lanes(delta, lanes)
        for table, part in zip(self.tables, route(delta, len(self.tables)), strict=True):
            table.replace(lanes, part)

    def remove_lane(self, lane: int) -> None:
        """Empty a lane in every table: one record `clear_lane`, one store each."""
        self.apply([clear_lanes([lane])] * len(self.tables))

    def shard_of(self, segment_key: int) -> int:
        """The shard of the segment that begins with this key."""
        return self._index.shard_of(segment_key)

    def match(
        self,
        keys: npt.NDArray[np.uint64],
        allowed: bytes | bytearray | None = None,
        *,
        prompt_tokens: int = 0,
        block_size_tokens: int = 0,
        strategy: Strategy = "longest_prefix",
    ) -> Matches:
        """Match a chain of block keys [n_blocks].

        `allowed` has one byte a worker number; workers with 0, or beyond its end, are left out.
        "reusable" needs the prompt's length and the keyspace's block size; raises InputError where
        they do not fit the keys.
        """
        return match(self._index, keys, allowed, prompt_tokens, block_size_tokens, strategy)

    def lookup(self, keys: npt.NDArray[np.uint64]) -> list[list[tuple[int, int]]]:
        """For each key, the lanes that hold it and their tier bits. For tools: a list per key."""
        return lookup(self.tables, keys)

    def export(self) -> Iterator[bytes]:
        """Content records (docs/dump_format.md) of what all tables held at the moment of this call.

        Applies and matches go on. Raises DumpError where snapshots held already leave no room.
        """
        return _sections(snapshot(self.tables))

    def load(self, content: Iterable[bytes]) -> None:
        """Every lane that the records name becomes what they say; other lanes stay.

        In all tables at one instant, for who looks. Raises DumpError, and changes nothing, when a record
        cannot be used.
        """
        load_content(self.tables, content)

    def statistics(self) -> list[dict[str, Any]]:
        """Of each table: entries, slots, sets, bytes, load factor, what was dropped, rebuilds."""
        return [table.statistics() for table in self.tables]

    def close(self) -> None:
        for table in self.tables:
            table.close()


def _sections(snapshots: list[Snapshot]) -> Iterator[bytes]:
    while snapshots:  # each goes when it is told
        yield from snapshots.pop(0).sections()
