"""Batches as model servers write them: typed events to msgpack, in each of the wire's shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgpack
import msgspec

from kvatlas.ingest.wire.events import AllBlocksCleared, BlockRemoved, BlockStored

Event = AllBlocksCleared | BlockRemoved | BlockStored

STORED_FIELDS = (
    "block_hashes",
    "parent_block_hash",
    "token_ids",
    "block_size",
    "lora_id",
    "medium",
    "lora_name",
    "extra_keys",
    "group_idx",
    "kv_cache_spec_kind",
    "kv_cache_spec_sliding_window",
)
REMOVED_FIELDS = ("block_hashes", "medium", "group_idx")
NEWEST_FIELDS = ("locality", "ownership")


@dataclass(frozen=True)
class Shape:
    """How one server writes what it says."""

    events: Literal["map", "array"] = "map"
    batch: Literal["map", "array"] = "array"
    hashes: Literal["unsigned", "signed", "digest"] = "unsigned"
    nested: bool = False
    """Every event is packed by itself, as bin."""


def packed(events: Sequence[Event | object], rank: int | None = None, shape: Shape | None = None) -> bytes:
    """One payload; what is no event of ours is written as it is."""
    shape = shape or Shape()
    written = [plain_event(event, shape) if isinstance(event, Event) else event for event in events]
    if shape.nested:
        written = [msgpack.packb(event, unicode_errors="surrogateescape") for event in written]
    batch: Any = [1.5, written, rank]
    if shape.batch == "map":
        batch = {"ts": 1.5, "events": written, "data_parallel_rank": rank}
    payload = msgpack.packb(batch, unicode_errors="surrogateescape")
    assert isinstance(payload, bytes)
    return payload


def as_heard(event: Event, shape: Shape) -> Event:
    """What is left of the event in this shape: arrays have no place for the newest fields."""
    if isinstance(event, AllBlocksCleared) or shape.events == "map":
        return event
    return msgspec.structs.replace(event, locality=None, ownership=None)


def plain_event(event: Event, shape: Shape) -> Any:
    tag = type(event).__name__
    if isinstance(event, AllBlocksCleared):
        return {"type": tag} if shape.events == "map" else [tag]
    names = STORED_FIELDS if isinstance(event, BlockStored) else REMOVED_FIELDS
    fields = {name: getattr(event, name) for name in names}
    fields["block_hashes"] = [plain_hash(value, shape) for value in event.block_hashes]
    if isinstance(event, BlockStored):
        if event.parent_block_hash is not None:
            fields["parent_block_hash"] = plain_hash(event.parent_block_hash, shape)
        if event.cache_salt is not None:
            fields["lora_name"] = {"cache_salt": event.cache_salt}
    if shape.events == "map":
        fields.update({name: getattr(event, name) for name in NEWEST_FIELDS})
        present = {name: value for name, value in fields.items() if value is not None}
        return {"type": tag, **present}
    row = [tag, *fields.values()]
    while row[-1] is None:
        row.pop()
    return row


def plain_hash(value: int, shape: Shape) -> int | bytes:
    if shape.hashes == "signed" and value >= 2**63:
        return value - 2**64
    if shape.hashes == "digest":
        return b"\xab" * 24 + value.to_bytes(8, "big")
    return value
