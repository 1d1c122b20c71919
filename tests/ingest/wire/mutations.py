"""Ways to damage a payload, and a few payloads to start from."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.ingest.wire import wire_forms as wire

_HEADERS = [
    *(bytes([first]) + b"\xff" * 4 for first in (0xC6, 0xC9, 0xDB, 0xDD, 0xDF)),
    *(bytes([first]) + b"\xff" * 2 for first in (0xC5, 0xC8, 0xDA, 0xDC, 0xDE)),
    b"\xdd\x00\x00\x00\x01",
    b"\xc9\x00\x00\x00\x00\xff",
    b"\xd4\xff\x00",
]
_VALUES = [
    wire.NIL,
    wire.TRUE,
    wire.NEVER_USED,
    wire.integer(-1),
    wire.integer(2**64 - 1),
    wire.integer(2**32),
    wire.number(1.5),
    wire.text("BlockRemoved"),
    wire.text("events"),
    wire.binary(b""),
    wire.binary(wire.array(wire.text("AllBlocksCleared"))),
    wire.array(),
    wire.mapping(cache_salt=wire.text("s")),
    wire.nested(60),
]


def flip_bit(rng: random.Random, data: bytes) -> bytes:
    if not data:
        return data
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randint(0, len(data))]


def overwrite(rng: random.Random, data: bytes) -> bytes:
    """A value of another type, or a header that claims far too much, in place of some bytes."""
    at = rng.randint(0, len(data))
    return data[:at] + rng.choice(_HEADERS + _VALUES) + data[at + rng.randint(0, 9) :]


def insert(rng: random.Random, data: bytes) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + rng.choice(_HEADERS + _VALUES) + data[at:]


def drop(rng: random.Random, data: bytes) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + data[at + rng.randint(1, 9) :]


def double(rng: random.Random, data: bytes) -> bytes:
    start = rng.randint(0, len(data))
    end = rng.randint(start, min(len(data), start + 40))
    return data[:end] + data[start:end] + data[end:]


def splice(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """The beginning of one payload and the end of another."""
    return data[: rng.randint(0, len(data))] + other[rng.randint(0, len(other)) :]


_MUTATIONS: list[Callable[[random.Random, bytes], bytes]] = [
    flip_bit,
    truncate,
    overwrite,
    insert,
    drop,
    double,
]


def mutate(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """`data` with one of these mutations; `other` is what may be spliced into it."""
    mutation = rng.choice([*_MUTATIONS, None])
    return mutation(rng, data) if mutation else splice(rng, data, other)


def example_payloads() -> list[bytes]:
    """One sound batch for each form of the wire."""
    stored_values = {
        "block_hashes": wire.integers(1, 2**63, 3),
        "parent_block_hash": wire.binary(bytes(range(32))),
        "token_ids": wire.integers(*range(120, 132)),
        "block_size": wire.integer(4),
        "lora_id": wire.NIL,
        "medium": wire.text("GPU"),
        "lora_name": wire.text("sql"),
        "extra_keys": wire.array(
            wire.array(wire.text("sql"), wire.array(wire.text("image"), wire.integer(-3)), wire.text("s")),
            wire.array(wire.text("sql"), wire.binary(b"digest")),
            wire.NIL,
        ),
        "group_idx": wire.integer(0),
        "kv_cache_spec_kind": wire.text("full_attention"),
        "kv_cache_spec_sliding_window": wire.NIL,
    }
    tag = wire.text("BlockStored")
    as_map = wire.mapping(type=tag, **stored_values, locality=wire.text("LOCAL"))
    lengths = (5, 6, 7, 8, 9, 10, 12)
    stored = [wire.array(tag, *list(stored_values.values())[: n - 1]) for n in lengths]
    removed = wire.array(wire.text("BlockRemoved"), wire.integers(-1, 2), wire.text("cpu"))
    cleared = wire.mapping(type=wire.text("AllBlocksCleared"))
    events = [[as_map], stored, [removed, cleared, as_map], [wire.binary(as_map), removed], []]
    ts, rank = wire.number(1.5e9), wire.integer(3)
    names = ("ts", "data_parallel_rank", "events", "ts", "data_parallel_rank", "events")
    repeated = list(zip(map(wire.text, names), [ts, rank, wire.array(removed)] * 2, strict=True))
    return [wire.map_forms(repeated)[0]] + [
        batch
        for raw in (wire.array(*some) for some in events)
        for batch in (
            wire.array(ts, raw),
            wire.array(ts, raw, rank),
            wire.array(ts, raw, rank, wire.NIL),
            wire.mapping(ts=ts, events=raw, data_parallel_rank=rank),
        )
    ]
