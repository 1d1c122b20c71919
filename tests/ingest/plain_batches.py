"""Batches as a current server packs them, from what a test wants to say."""

from __future__ import annotations

import msgpack


def stored(
    hashes: list[int], tokens: list[int], parent: int | None = None, **more: object
) -> dict[str, object]:
    event = {"type": "BlockStored", "block_hashes": hashes, "parent_block_hash": parent, "token_ids": tokens}
    return event | {"block_size": 16, "extra_keys": [None] * len(hashes)} | more


def batch(*events: object, rank: int | None = None) -> bytes:
    payload = msgpack.packb([1.0, list(events), rank])
    assert isinstance(payload, bytes)
    return payload
