"""The native decoder against the plain one: the same on any input."""

from __future__ import annotations

import math
import random
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from kvatlas.index.errors import DecodeError
from kvatlas.ingest import _native
from kvatlas.ingest.wire.decoding import decode_batch
from kvatlas.ingest.wire.events import AllBlocksCleared, BlockRemoved, Event
from kvatlas.ingest.wire.msgpack_reader import NESTING_MAX
from tests.ingest.wire import wire_forms as wire
from tests.ingest.wire.mutations import example_payloads, mutate
from tests.ingest.wire.payloads import (
    MAP_ONLY,
    STORED_ORDER,
    damaged_payloads,
    doubtful_batches,
    payloads,
    sound_batches,
)
from tests.ingest.wire.wire_events import CLEARED, TS, batch_of, removed, stored

pytestmark = pytest.mark.native

NOT_A_BATCH = "DecodeError"
EDGES = [0, 1, *(2**bits + offset for bits in (5, 6, 7, 8, 15, 16, 31, 32, 63) for offset in (-1, 0))]
INTS = [*EDGES, *(-edge for edge in EDGES), -(2**31) - 1, 2**64 - 1]
VALUES = [
    *(form for value in INTS for form in wire.int_forms(value)),
    *(form for text in ("", "x" * 40, "\udcff") for form in wire.str_forms(text)),
    *(form for body in (b"", b"\x90", b"x" * 9) for form in wire.bin_forms(body)),
    *(form for number in (0.5, float("nan"), 1e300) for form in wire.float_forms(number)),
    *(form for code in (-1, 5) for form in wire.ext_forms(code, b"\xff" * 4)),
    *wire.array_forms([]),
    *wire.map_forms([]),
    *wire.map_forms([(wire.array(), wire.mapping()), (wire.NIL, wire.NIL)]),
    wire.NIL,
    wire.TRUE,
    wire.FALSE,
    wire.NEVER_USED,
]


def comparable(value: Any) -> Any:
    """Lists and tuples alike, and every NaN the same."""
    if isinstance(value, list | tuple):
        return [comparable(element) for element in value]
    return "nan" if isinstance(value, float) and math.isnan(value) else value


def plain_event(event: Event) -> tuple[Any, ...]:
    if isinstance(event, AllBlocksCleared):
        return ("AllBlocksCleared", event.inventory)
    if isinstance(event, BlockRemoved):
        where = (event.medium, event.group_idx, event.locality, event.ownership)
        return ("BlockRemoved", event.block_hashes, *where)
    return (
        "BlockStored",
        event.block_hashes,
        event.parent_block_hash,
        event.token_ids,
        event.block_size,
        event.lora_id,
        event.medium,
        event.lora_name,
        event.cache_salt,
        event.extra_keys,
        event.group_idx,
        event.kv_cache_spec_kind,
        event.kv_cache_spec_sliding_window,
        event.locality,
        event.ownership,
        event.chunk_blocks,
    )


def plain(payload: bytes) -> Any:
    try:
        batch = decode_batch(payload)
    except DecodeError:
        return NOT_A_BATCH
    events = [plain_event(event) for event in batch.events]
    reasons = [error.reason for error in batch.errors]
    return comparable((batch.ts, batch.data_parallel_rank, events, reasons, batch.unknown_events))


def native(payload: bytes) -> Any:
    try:
        return comparable(_native.decode_events(payload))
    except DecodeError:
        return NOT_A_BATCH


def assert_same(payload: bytes) -> None:
    assert native(payload) == plain(payload), payload.hex()


@pytest.mark.slow
@given(sound_batches())
def test_they_agree_on_sound_batches(sound: tuple[Any, bytes]) -> None:
    assert_same(sound[1])


@pytest.mark.slow
@given(doubtful_batches())
def test_they_agree_on_values_of_any_type_anywhere(payload: bytes) -> None:
    assert_same(payload)


@pytest.mark.slow
@given(damaged_payloads())
def test_they_agree_on_damaged_payloads(payload: bytes) -> None:
    assert_same(payload)


@pytest.mark.slow
@given(payloads)
def test_they_agree_on_any_bytes(payload: bytes) -> None:
    assert_same(payload)


@pytest.mark.slow
def test_they_agree_on_every_beginning_of_every_form() -> None:
    for payload in example_payloads():
        assert plain(payload) != NOT_A_BATCH
        for n_bytes in range(len(payload) + 1):
            assert_same(payload[:n_bytes])


@pytest.mark.slow
def test_they_agree_on_every_first_byte_of_a_value() -> None:
    for first in range(256):
        for tail in (b"", b"\x00" * 16, b"\x01" * 16, b"\xff" * 16):
            value = bytes([first]) + tail
            assert_same(value)
            assert_same(wire.array_forms([TS, value])[0])
            assert_same(batch_of(value, CLEARED))
            assert_same(batch_of(stored(token_ids=value, session_id=value), CLEARED))


@pytest.mark.slow
def test_they_agree_on_every_kind_and_every_edge_in_every_place() -> None:
    for value in VALUES:
        pair = wire.array(wire.text("image"), value, value)
        for raw in (value, wire.array(value), wire.array(wire.array(value, pair))):
            for name in (*STORED_ORDER, *MAP_ONLY, "type"):
                assert_same(batch_of(stored(**{name: raw}), removed(**{name: raw})))
                assert_same(batch_of(stored(**{name: wire.binary(raw)}), wire.binary(raw)))
        assert_same(batch_of(stored(lora_name=wire.mapping(cache_salt=value))))
        for batch in ([value, wire.array(), value], [TS, value], [value]):
            assert_same(wire.array_forms(batch)[0])
        for key in (value, wire.text("events"), wire.text("ts"), wire.text("data_parallel_rank")):
            pairs = [(key, value), (wire.text("events"), wire.array(CLEARED)), (key, value)]
            assert_same(wire.map_forms(pairs)[0])


@pytest.mark.slow
def test_they_agree_on_recorded_payloads_and_what_becomes_of_them(shared: Path) -> None:
    files = sorted((shared / "fixtures" / "vllm-0.32").glob("*.msgpack"))
    recorded = [file.read_bytes() for file in files]
    assert recorded
    rng = random.Random(0)
    for payload in recorded:
        assert_same(payload)
        for _ in range(20):
            assert_same(mutate(rng, payload, rng.choice(recorded)))


def test_they_agree_on_how_deep_a_value_may_nest() -> None:
    for depth in (1, 100, NESTING_MAX - 1, NESTING_MAX, NESTING_MAX + 1, 2 * NESTING_MAX, 100_000):
        for deep in (wire.nested(depth), wire.nested(depth, b"\x90"), b"\x81\xc0" * depth + b"\xc0"):
            assert_same(batch_of(CLEARED, deep, CLEARED))
            assert_same(batch_of(CLEARED, wire.binary(deep), CLEARED))
            assert_same(wire.array_forms([deep, wire.array(CLEARED), TS, deep])[0])
            assert_same(wire.array_forms([TS, wire.array(CLEARED), TS, deep])[0])
            assert_same(wire.map_forms([(deep, deep), (wire.text("events"), wire.array())])[0])
            assert_same(batch_of(CLEARED, stored(unknown=deep), CLEARED))
            assert_same(batch_of(CLEARED, stored(extra_keys=wire.array(wire.array(deep)))))


@pytest.mark.fuzz
def test_they_agree_on_whatever_random_damage_makes(fuzz_seconds: float) -> None:
    rng = random.Random()  # the payload itself is what a failure shows
    corpus = example_payloads()
    deadline = time.monotonic() + fuzz_seconds
    n_payloads = 0
    while time.monotonic() < deadline:
        payload = rng.choice(corpus)
        for _ in range(rng.randint(1, 4)):
            payload = mutate(rng, payload, rng.choice(corpus))
        assert_same(payload)
        n_payloads += 1
    assert n_payloads > 0
