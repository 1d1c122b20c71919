"""Native core of the index: block keys, residency table, matching. Source: index/native/."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

SEGMENT_BLOCKS: int
"""Blocks in a segment."""

class Keyspace:
    """What seeds a chain of block keys. Immutable."""

    @staticmethod
    def fold64(secrets: bytes, block_size: int) -> Keyspace: ...
    @staticmethod
    def fnv64a_cbor(hash_seed: str, model: str, block_size: int) -> Keyspace: ...
    @property
    def block_size(self) -> int: ...
    def root(self, lora: str | None = None) -> int:
        """The key before a chain's first block."""
    def keys(
        self,
        token_ids: object,
        lora: str | None = None,
        cache_salt: str | None = None,
        features: Iterable[tuple[str, int, int]] | None = None,
        parent: int | None = None,
    ) -> npt.NDArray[np.uint64]:
        """uint64 [n_blocks] of the full blocks; see kvatlas.block_keys."""

class Source:
    """Something that can be matched: a table here, or a reader of another process's."""

    def lookup(self, keys: npt.NDArray[np.uint64]) -> list[list[tuple[int, int]]]:
        """(lane, tier bits) of each key. For tools and tests."""

class Table(Source):
    """A residency table. Any thread may call any method; `apply` calls take turns."""

    def __init__(self, budget_bytes: int = ..., path: str | None = None) -> None:
        """`path`: the control file of a shared-memory table; None: private memory."""
    def apply(self, delta: bytes | bytearray | memoryview) -> int:
        """Apply delta records, all or none; returns their number."""
    def replace(self, lanes: Sequence[int], delta: bytes | bytearray | memoryview) -> int:
        """All that these lanes hold becomes what the records leave in empty ones; returns their number.

        A match sees of all these lanes the old or the new. `apply` goes on meanwhile: what it does to
        other lanes stays, to these is lost, except that a lane it clears stays empty. Calls take turns.
        Raises InputError, and changes nothing, when malformed or when a record is of another lane.
        """
    def touch(self, segment_keys: npt.NDArray[np.uint64]) -> None:
        """Tell that these segments are in use."""
    def heartbeat(self) -> None:
        """Tell readers in other processes that the writer lives."""
    def set_whole(self, whole: bool) -> None:
        """Tell readers whether anything is missing in it. At first it is."""
    @property
    def whole(self) -> bool: ...
    @property
    def path(self) -> str:
        """Of the control file; empty: private memory."""
    def statistics(self) -> dict[str, Any]: ...
    def close(self) -> None: ...

class TableReader(Source):
    """Reads a shared-memory table that another process writes."""

    def __init__(self, path: str, age_ms_max: int = 5000) -> None:
        """`age_ms_max`: how old the writer's heartbeat may be, ms.

        This and every look raise StaleTableError when it is older or the table closed, TableFileError
        for a file that is missing, foreign, of another format version or of another user.
        """
    def take_touched(self) -> npt.NDArray[np.uint64]:
        """First keys of segments that matches used since the last call, a sample of 1 024 at most."""
    @property
    def whole(self) -> bool:
        """Nothing is missing in the table; False also when its writer is gone or silent."""
    @property
    def incarnation(self) -> int: ...
    @property
    def age_ms(self) -> int: ...

class Excerpt(Source):
    """Answers of `excerpt` put together: a source that knows the keys asked for, and no others."""

    def __init__(
        self, keys_parts: Sequence[npt.NDArray[np.uint64]], excerpts: Sequence[bytes | memoryview]
    ) -> None:
        """The keys of each question and what came.

        Raises DecodeError for bytes that `excerpt` did not write for these keys.
        """
    def take_touched(self) -> npt.NDArray[np.uint64]:
        """As `TableReader.take_touched`."""
    @property
    def whole(self) -> bool:
        """Every source that was asked was whole."""

class Roster:
    """Which groups and stores make up a worker's cache, and how its engine reuses it."""

    def __init__(self) -> None: ...
    def set(
        self,
        worker: int,
        groups: Sequence[int | tuple[int, int, int, int, bool]],
        stores: Sequence[int],
        chunk_blocks: int = 1,
        recomputes_last_block: bool = True,
        drops_matched_block: bool = False,
    ) -> None:
        """Replace what a worker consists of; neither groups nor stores: remove it.

        `groups`: `kvatlas.index.groups.Group`s, at most 64; a lane alone is a full-attention group.
        `stores`: lanes. `chunk_blocks`: engine blocks that its connector offloads as one.
        `recomputes_last_block`: at least one token of a prompt is always computed.
        `drops_matched_block`: a speculative decoder (EAGLE, MTP) has one matched block computed
        again, in its groups where some are `is_draft`, else in all.
        """

class Index:
    """Shards and roster, matched as one."""

    def __init__(self, shards: Sequence[Source], roster: Roster) -> None: ...
    def match(
        self,
        keys: npt.NDArray[np.uint64],
        allowed: bytes | bytearray | None = None,
        prompt_tokens: int = 0,
        block_size_tokens: int = 0,
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32], npt.NDArray[np.uint32], int, tuple[int, ...]]:
        """workers [n], blocks [n], tier_blocks [n, 5], slots probed, partial rows.

        With a prompt's length and a block size: what is reusable; with neither: the longest prefix.
        """
    def shard_of(self, segment_key: int) -> int: ...

def shard_of(segment_key: int, n_shards: int) -> int:
    """The shard of the segment that begins with this key (jump consistent hash)."""

def lanes_of(delta: bytes | bytearray | memoryview) -> list[int]:
    """The lanes that delta records name, ascending. Raises InputError when malformed."""

def route(delta: bytes, n_shards: int) -> list[bytes]:
    """Delta records by shard, in their order; those without keys go to all. At most 1 024 shards.

    Raises InputError when malformed.
    """

def excerpt(source: Source, keys: npt.NDArray[np.uint64]) -> bytes:
    """What a source knows of keys in any order, for `Excerpt`. Source: docs/indexer.md, excerpts."""

def remove_dead_tables(folder: str, prefix: str) -> int:
    """Remove the files of tables named `prefix`* whose writers are gone; returns how many tables.

    Never one in use, another user's or a foreign file. Readers that are still attached find the
    table closed. Raises InputError for an empty prefix or one with a slash, TableFileError when the
    folder cannot be read.
    """
