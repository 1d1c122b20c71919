"""The index by itself: block keys, a residency table and matching, without events or servers.

    python examples/index_as_library.py

For a system that knows by other means who holds what, and only wants the lookup.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

import kvatlas
from kvatlas.index.scores import TIERS
from kvatlas.index.shards import ShardedIndex

BLOCK_SIZE = 16  # tokens
SEGMENT_BLOCKS = 128
ADD, REMOVE = 1, 2

BlockKeys = npt.NDArray[np.uint64]


def delta(operation: int, lane: int, tier: str, keys: BlockKeys, start: int, end: int) -> bytes:
    """A change of residency of blocks `start` to `end` of a chain, as docs/indexer.md describes it.

    One record for each segment, which is named by its first key and decides the blocks' shard.
    """
    records = b""
    for segment in range(start // SEGMENT_BLOCKS * SEGMENT_BLOCKS, end, SEGMENT_BLOCKS):
        changed = keys[max(start, segment) : min(end, segment + SEGMENT_BLOCKS)]
        tier_bits = 1 << TIERS.index(tier)
        records += struct.pack("<BBHIIIQ", operation, tier_bits, 0, len(changed), lane, 0, int(keys[segment]))
        records += changed.tobytes()
    return records


def main() -> None:
    index = ShardedIndex(table_bytes_max=16 << 20)
    # A worker is a number and has lanes, one for each of its caches; here they are the same numbers.
    for worker in range(3):
        index.roster.set(worker, [worker], [])

    prompt = np.arange(1000, 1000 + 300 * BLOCK_SIZE, dtype=np.uint32)
    keys = kvatlas.block_keys(prompt, model="some/model", block_size=BLOCK_SIZE)
    print(f"{len(prompt)} tokens are {len(keys)} blocks")

    index.apply([delta(ADD, lane=0, tier="gpu", keys=keys, start=0, end=300)])
    index.apply([delta(ADD, lane=1, tier="gpu", keys=keys, start=0, end=200)])
    index.apply([delta(ADD, lane=1, tier="cpu", keys=keys, start=200, end=250)])
    show("stored", index, keys)

    index.apply([delta(REMOVE, lane=0, tier="gpu", keys=keys, start=128, end=300)])
    show("worker 0 dropped its tail", index, keys)

    # The same tokens under another salt are other blocks: nobody holds them.
    salted = kvatlas.block_keys(prompt, model="some/model", block_size=BLOCK_SIZE, cache_salt="tenant-7")
    show("with a salt", index, salted)


def show(what: str, index: ShardedIndex, keys: BlockKeys) -> None:
    found = index.match(keys)
    print(f"{what}:")
    for worker, blocks, tiers in sorted(
        zip(found.workers, found.blocks, found.tier_blocks.tolist(), strict=True)
    ):
        by_tier = {tier: count for tier, count in zip(TIERS, tiers, strict=True) if count}
        print(f"  worker {worker} holds the first {blocks} blocks: {by_tier}")
    if not len(found.workers):
        print("  no worker holds the first block")


if __name__ == "__main__":
    main()
