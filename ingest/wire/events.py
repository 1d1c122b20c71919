"""What a model server says in one batch of KV events, and what was wrong with it.

Field names are those of the wire. Hashes are unsigned 64-bit numbers; strings may hold lone
surrogates where the wire's bytes were not UTF-8.
"""

from __future__ import annotations

from typing import Literal

import msgspec

ExtraKey = str | bytes | tuple[str, int] | None
"""One element of a block's extra keys.

A string (LoRA name, cache salt or bare multimodal identifier), the bytes of an embedding digest, a
multimodal (identifier, offset relative to the block), or None: some other value, which cannot be
interpreted.
"""


class BlockStored(msgspec.Struct, frozen=True, kw_only=True):
    """Blocks that follow one another in one chain are now held."""

    block_hashes: tuple[int, ...]
    """The engine's names of the blocks, in the order of the chain [n_blocks]."""
    parent_block_hash: int | None = None
    """The block before the first one; None: the chain starts here."""
    token_ids: tuple[int, ...] = ()
    """0 to 2^32 - 1 each; empty in a placeholder."""
    block_size: int = 0
    """Tokens in a block; 0 in a placeholder."""
    lora_id: int | None = None
    medium: str | None = None
    """Where the copy lies, as the server spells it; None: on the device."""
    lora_name: str | None = None
    cache_salt: str | None = None
    """Only where the server puts it beside the event instead of among the extra keys."""
    extra_keys: tuple[tuple[ExtraKey, ...] | None, ...] | None = None
    """What else went into each block's hash [n_blocks]; None: the event does not say."""
    group_idx: int = 0
    """KV-cache group, 0 to 63."""
    kv_cache_spec_kind: str | None = None
    kv_cache_spec_sliding_window: int | None = None
    """Tokens."""
    locality: str | None = None
    ownership: str | None = None
    chunk_blocks: int = 0
    """Blocks in each file of a store, whose last one is named; 0: the event does not say."""


class BlockRemoved(msgspec.Struct, frozen=True, kw_only=True):
    """One copy of each of these blocks is gone."""

    block_hashes: tuple[int, ...]
    medium: str | None = None
    group_idx: int = 0
    locality: str | None = None
    ownership: str | None = None


class AllBlocksCleared(msgspec.Struct, frozen=True):
    """Everything on the device is gone."""

    inventory: Literal["begin", "end"] | None = None
    """Of those that announce a store's files: all that there are follow, or have been named."""


Event = BlockStored | BlockRemoved | AllBlocksCleared


class EventError(msgspec.Struct, frozen=True, gc=False):
    """An event that was left out, or the place where the batch breaks off."""

    index: int
    """Place of the event in its batch; where a batch breaks off behind its events, their number."""
    path: str
    """Where in the batch: `$.events[3].block_hashes[2]`."""
    expected: str
    got: str
    reason: Literal["bad_event", "broken_payload"]

    def __str__(self) -> str:
        return f"{self.path}: expected {self.expected}, got {self.got}"


class EventBatch(msgspec.Struct, frozen=True):
    """One message of a model server: the events of one engine step, in order."""

    ts: float | None
    """Seconds since the epoch, by the server's clock."""
    data_parallel_rank: int | None
    events: tuple[Event, ...]
    """Those that could be read."""
    errors: tuple[EventError, ...]
    """One for each that could not, in order, and one more at the end of a broken payload."""
    unknown_events: int
    """Events of a type that this version does not know."""
