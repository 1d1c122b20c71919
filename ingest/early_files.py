"""Files of a store that are told before the model's block size is known: they need no block keys to wait."""

from __future__ import annotations

from kvatlas.ingest._native import Store
from kvatlas.ingest.wire.events import BlockRemoved, BlockStored, Event, EventBatch

_NO_TIME = float("nan")


def in_storage(event: Event) -> bool:
    """Whether it tells of shared storage."""
    if not isinstance(event, BlockStored | BlockRemoved):
        return False
    medium, locality = (event.medium or "").upper(), (event.locality or "").upper()
    return medium == "EXTERNAL" or (medium == "STORAGE" and locality != "LOCAL")


def names_a_group(event: Event) -> bool:
    """Whether it tells of blocks of the worker's own, or of what its cache consists of."""
    if not isinstance(event, BlockStored) or in_storage(event):
        return False
    return bool(event.block_hashes) or (event.medium or "GPU").upper() == "GPU"


def tell_early(store: Store, batch: EventBatch, chunk_blocks: int) -> dict[str, int]:
    """Tell a store of the files in a batch, as mirrors do; nothing of it can be resident yet.

    `chunk_blocks`: of files whose announcement does not say. Returns what was left out, by counter.
    """
    counts = {"store_waiting": 0, "store_stale": 0, "store_full": 0, "removed_unknown": 0}
    counter_of = {"waits": "store_waiting", "stale": "store_stale", "no_room": "store_full"}
    time_s = _NO_TIME if batch.ts is None else batch.ts
    for event in filter(in_storage, batch.events):
        if isinstance(event, BlockRemoved):
            _, unknown, _ = store.release(event.block_hashes, event.group_idx, time_s)
            counts["removed_unknown"] += len(unknown)
        elif isinstance(event, BlockStored):
            for name, blocks, named in _files(event, chunk_blocks):
                held, _ = store.hold(name, event.group_idx, blocks, time_s)
                if held in counter_of:
                    counts[counter_of[held]] += named
    return counts


def _files(event: BlockStored, chunk_blocks: int) -> list[tuple[int, int, int]]:
    """Name of each file, its blocks, and how many of them are named."""
    names = event.block_hashes
    is_chunk = 0 < len(names) * event.block_size == len(event.token_ids)
    if is_chunk and event.chunk_blocks == 0 and len(names) > 1:
        return [(names[-1], len(names), len(names))]
    return [(name, max(event.chunk_blocks, chunk_blocks), 1) for name in names]
