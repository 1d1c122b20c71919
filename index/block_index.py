"""What every home of an index can do: tables of this process, a cluster's shards, a Redis or Valkey.

One suite holds all of them to it: tests/index/backends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from kvatlas.index._native import Roster
from kvatlas.index.shards import Matches, Strategy


class BlockIndex(Protocol):
    """Which lanes hold which blocks in which tiers. Any thread may call any method.

    What a call has applied is seen by every match that begins after it has returned, in this process.
    A home that cannot be reached raises its own error (RemoteIndexError, ClusterError); what was being
    applied then may be in it in part, and `replace` of the lanes puts that right.
    """

    @property
    def roster(self) -> Roster:
        """What matches are made with: which lanes a worker consists of. Set by whoever uses the index."""
        ...

    @property
    def n_shards(self) -> int:
        """Buffers that `apply` wants."""
        ...

    def apply(self, deltas: Sequence[bytes]) -> None:
        """Apply delta records (docs/indexer.md), one buffer a shard, each record in its segment's.

        Adding what is held and removing what is not change nothing. Raises InputError for another
        number of buffers, and, with nothing of that buffer applied, for a malformed one.
        """

    def replace(self, lanes: Sequence[int], delta: bytes) -> None:
        """All that these lanes hold becomes what the delta, of all shards, leaves in empty ones.

        In each shard the lanes change at once for who looks. Raises InputError, and changes nothing,
        for a malformed delta or one that names other lanes.
        """

    def remove_lane(self, lane: int) -> None:
        """The lane holds nothing more. Costs no more where it held much."""

    def match(
        self,
        keys: npt.NDArray[np.uint64],
        allowed: bytes | bytearray | None = None,
        *,
        prompt_tokens: int = 0,
        block_size_tokens: int = 0,
        strategy: Strategy = "longest_prefix",
    ) -> Matches:
        """Match a chain of block keys [n_blocks], from its start, by the roster of this moment.

        `allowed` has one byte a worker number; workers with 0, or beyond its end, are left out.
        "reusable" needs the prompt's length and the keyspace's block size; raises InputError where
        they do not fit the keys.
        """
        ...

    def lookup(self, keys: npt.NDArray[np.uint64]) -> list[list[tuple[int, int]]]:
        """For each key of a chain [n_blocks], from its start, the lanes that hold it and their tier bits."""
        ...

    def statistics(self) -> list[dict[str, Any]]:
        """Of each table, or of the home as one."""
        ...

    def export(self) -> Iterator[bytes]:
        """All that is held, as content records (docs/dump_format.md).

        Of one instant, that of the first record taken; the index is written and read meanwhile.
        """
        ...

    def load(self, content: Iterable[bytes]) -> None:
        """Every lane that these content records name holds what they say; other lanes stay as they are.

        Raises DumpError for what is no content, with nothing of that record applied.
        """

    def close(self) -> None:
        """Let go of it. Twice is fine."""
