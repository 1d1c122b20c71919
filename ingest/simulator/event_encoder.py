"""KV events as the releases of the model servers spell them, from events to the payload's bytes.

What `kvatlas.decode_batch` reads; only the simulated model server and tests write it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from kvatlas.index.errors import InputError

EngineHash = int | bytes
"""A block's name on the wire: the low 64 bits of its digest, or the whole digest."""

WireExtraKeys = tuple[str | bytes | tuple[str, int], ...]
"""What went into one block's hash besides tokens, untagged, in the order LoRA name, multimodal
(identifier, offset in the block), cache salt, embedding digests."""

GPU = "GPU"
CPU = "CPU"
STORAGE = "STORAGE"


class WireBlockStored(msgspec.Struct, tag="BlockStored", omit_defaults=True):
    """Blocks were filled, copied into a tier, or (a report) are held already.

    The fields and their order are the wire's: the first seven are always written, a later one only
    where it is not None.
    """

    block_hashes: list[EngineHash]
    parent_block_hash: EngineHash | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    extra_keys: list[WireExtraKeys | None] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    kv_cache_spec_sliding_window: int | None = None
    locality: str | None = None
    ownership: str | None = None
    session_id: str | None = None


class WireBlockRemoved(msgspec.Struct, tag="BlockRemoved", omit_defaults=True):
    """Copies were dropped, one for each hash."""

    block_hashes: list[EngineHash]
    medium: str | None
    group_idx: int | None = None
    locality: str | None = None
    ownership: str | None = None


class WireAllBlocksCleared(msgspec.Struct, tag="AllBlocksCleared"):
    """The device's cache was emptied."""


WireEvent = WireBlockStored | WireBlockRemoved | WireAllBlocksCleared


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """How one family of releases writes its batches."""

    as_maps: bool
    """Events are maps without the later fields that are None; else arrays of fixed lengths."""
    stored_elements: int = 0
    """Of a BlockStored array, behind its tag."""
    removed_elements: int = 0
    topic_in_replay: bool = False
    """The replay socket puts the topic in front of the sequence number."""
    per_page: bool = False
    """SGLang's ways: an event per block, signed hashes, other tier names, the salt beside."""


DIALECTS: dict[str, Dialect] = {
    "0.10.2": Dialect(as_maps=False, stored_elements=6, removed_elements=2),
    "0.14.1": Dialect(as_maps=False, stored_elements=7, removed_elements=2),
    "0.19.1": Dialect(as_maps=False, stored_elements=8, removed_elements=2),
    "0.23.0": Dialect(as_maps=False, stored_elements=11, removed_elements=3),
    "0.32": Dialect(as_maps=True, topic_in_replay=True),
    "sglang": Dialect(as_maps=False, per_page=True),
}
"""By the first vLLM release known to write so, and SGLang."""

_SGLANG_MEDIUMS = {GPU: "GPU", CPU: "CPU_PINNED", STORAGE: "EXTERNAL"}
_SIGN_BIT = 1 << 63

_encoder = msgspec.msgpack.Encoder()


def encode_batch(
    events: Sequence[WireEvent],
    *,
    timestamp_s: float,
    data_parallel_rank: int | None = 0,
    dialect: str = "0.32",
) -> bytes:
    """Writes the payload of one batch.

    Without a rank the batch has two elements, as SGLang's and very old ones have. Fields that a
    dialect does not know are left out.
    Raises InputError when the dialect is not one of `DIALECTS`.
    """
    spelling = dialect_named(dialect)
    written: list[object]
    if spelling.as_maps:
        written = list(events)
    elif spelling.per_page:
        written = [row for event in events for row in _pages(event)]
    else:
        written = [_array(event, spelling) for event in events]
    batch: list[object] = [timestamp_s, written]
    if data_parallel_rank is not None:
        batch.append(data_parallel_rank)
    return _encoder.encode(batch)


def dialect_named(name: str) -> Dialect:
    """Looks a dialect up; raises InputError when there is none of this name."""
    spelling = DIALECTS.get(name)
    if spelling is None:
        raise InputError(f"dialect: expected one of {', '.join(sorted(DIALECTS))}, got {name!r}")
    return spelling


def _array(event: WireEvent, spelling: Dialect) -> list[object]:
    if isinstance(event, WireAllBlocksCleared):
        return ["AllBlocksCleared"]
    if isinstance(event, WireBlockRemoved):
        removed: list[object] = [event.block_hashes, event.medium, event.group_idx]
        return ["BlockRemoved", *removed[: spelling.removed_elements]]
    stored: list[object] = [
        event.block_hashes,
        event.parent_block_hash,
        event.token_ids,
        event.block_size,
        event.lora_id,
        event.medium,
        event.lora_name,
        event.extra_keys,
        event.group_idx,
        event.kv_cache_spec_kind,
        event.kv_cache_spec_sliding_window,
    ]
    return ["BlockStored", *stored[: spelling.stored_elements]]


def _pages(event: WireEvent) -> Iterator[list[object]]:
    """SGLang announces page by page, each the child of the one before.

    REQUIRES: all tokens of all blocks, as groups that skip blocks do not have them.
    """
    if isinstance(event, WireAllBlocksCleared):
        yield ["AllBlocksCleared"]
        return
    medium = _SGLANG_MEDIUMS.get(event.medium or GPU, event.medium)
    if isinstance(event, WireBlockRemoved):
        for engine_hash in event.block_hashes:
            yield ["BlockRemoved", [_signed(engine_hash)], medium]
        return
    parent = None if event.parent_block_hash is None else _signed(event.parent_block_hash)
    salt = _salt(event)
    for index, engine_hash in enumerate(event.block_hashes):
        tokens = event.token_ids[index * event.block_size : (index + 1) * event.block_size]
        page = _signed(engine_hash)
        row: list[object] = [[page], parent, tokens, event.block_size, event.lora_id, medium]
        if salt is not None:
            row.append({"cache_salt": salt})
        elif event.lora_name is not None:
            row.append(event.lora_name)
        yield ["BlockStored", *row]
        parent = page


def _salt(event: WireBlockStored) -> str | None:
    """The chain's cache salt, where the event holds the chain's first block."""
    first = event.extra_keys[0] if event.extra_keys else None
    bare = [key for key in first or () if isinstance(key, str)]
    return next(iter(bare[1:] if event.lora_name is not None else bare), None)


def _signed(engine_hash: EngineHash) -> EngineHash:
    if isinstance(engine_hash, int) and engine_hash >= _SIGN_BIT:
        return engine_hash - 2 * _SIGN_BIT
    return engine_hash
