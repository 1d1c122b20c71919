"""What the plain decoder says of payloads that are wrong, and what they cost it."""

from __future__ import annotations

import tracemalloc

import pytest

from kvatlas.index.errors import DecodeError
from kvatlas.ingest.wire.decoding import decode_batch
from kvatlas.ingest.wire.events import AllBlocksCleared, EventError
from tests.ingest.wire import wire_forms as wire
from tests.ingest.wire.wire_events import CLEARED, TS, batch_of, removed, stored


def only_error(event: bytes) -> EventError:
    """The error of an event between two sound ones, which it does not disturb."""
    batch = decode_batch(batch_of(CLEARED, event, CLEARED))
    assert batch.events == (AllBlocksCleared(), AllBlocksCleared())
    assert batch.unknown_events == 0
    assert len(batch.errors) == 1
    assert batch.errors[0].reason == "bad_event"
    assert batch.errors[0].index == 1
    return batch.errors[0]


def test_a_break_says_where_it_is() -> None:
    payload = batch_of(CLEARED, stored(), CLEARED)
    inside = decode_batch(payload[:-10])
    assert len(inside.events) == 2
    assert inside.data_parallel_rank is None
    assert [(e.index, e.path, e.reason) for e in inside.errors] == [(2, "$.events[2]", "broken_payload")]
    behind = decode_batch(payload[:-1])
    assert len(behind.events) == 3
    assert [(e.index, e.path, e.reason) for e in behind.errors] == [(3, "$", "broken_payload")]


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", r"\$: expected a whole msgpack value, got the end of the bytes at byte 0"),
        (b"\xc1", r"\$: expected an array or a map, got invalid"),
        (wire.NIL, r"\$: expected an array or a map, got nil"),
        (wire.binary(batch_of()), r"\$: expected an array or a map, got bin"),
        (wire.array(TS), r"\$: expected at least 2 elements, got 1"),
        (wire.array(TS, wire.NIL), r"\$\.events: expected an array, got nil"),
        (wire.array(TS, wire.mapping()), r"\$\.events: expected an array, got map"),
        (wire.mapping(ts=TS), r"\$: expected the key events, got a map without it"),
        (wire.mapping(events=TS), r"\$\.events: expected an array, got float"),
        (wire.array(wire.NEVER_USED, wire.array()), r"got the byte 0xc1 at byte 1"),
        (wire.array(wire.nested(100_000), wire.array()), r"got more than 512 containers"),
        (b"\x92\x01\xdd\xff", r"the end of the bytes at byte 2"),
    ],
)
def test_what_is_no_batch_raises_a_decode_error(payload: bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=message) as caught:
        decode_batch(payload)
    assert type(caught.value) is DecodeError


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (wire.NIL, "$.events[1]: expected an array or a map, or a bin that holds one, got nil"),
        (
            wire.binary(wire.binary(CLEARED)),
            "$.events[1]: expected an array or a map, or a bin that holds one, got bin",
        ),
        (
            wire.binary(stored()[:-1]),
            "$.events[1]: expected a whole msgpack value, got the end of the bytes at byte 32 of the bin",
        ),
        (wire.binary(b""), "$.events[1]: expected a whole msgpack value, got the end of the bytes"),
        (wire.binary(wire.nested(513)), "$.events[1]: expected a whole msgpack value, got more than"),
        (wire.array(), "$.events[1].type: expected a str, got nil"),
        (wire.mapping(), "$.events[1].type: expected a str, got nil"),
        (wire.array(wire.binary(b"BlockStored")), "$.events[1].type: expected a str, got bin"),
        (stored(type=wire.TRUE), "$.events[1].type: expected a str, got bool"),
        (stored(block_hashes=wire.NIL), "$.events[1].block_hashes: expected an array, got nil"),
        (wire.array(wire.text("BlockStored")), "$.events[1].block_hashes: expected an array, got nil"),
        (removed(block_hashes=wire.TRUE), "$.events[1].block_hashes: expected an array, got bool"),
        (
            stored(block_hashes=wire.array(wire.integer(1), wire.binary(b"x"), wire.text("x"))),
            "$.events[1].block_hashes[2]: expected an int or bytes, got str",
        ),
        (
            removed(block_hashes=wire.array(wire.binary(b""))),
            "$.events[1].block_hashes[0]: expected an int or bytes, got an empty bin",
        ),
        (removed(block_hashes=wire.array(TS)), "$.events[1].block_hashes[0]: expected an int or bytes"),
        (
            stored(parent_block_hash=wire.FALSE),
            "$.events[1].parent_block_hash: expected an int, bytes or nil, got bool",
        ),
        (
            stored(parent_block_hash=wire.binary(b"")),
            "$.events[1].parent_block_hash: expected an int, bytes or nil, got an empty bin",
        ),
        (
            stored(token_ids=wire.integers(0, -1)),
            "$.events[1].token_ids[1]: expected an int from 0 to 4294967295, got -1",
        ),
        (
            stored(token_ids=wire.integers(2**32)),
            "$.events[1].token_ids[0]: expected an int from 0 to 4294967295, got 4294967296",
        ),
        (
            stored(token_ids=wire.array(wire.integers(1, 2))),
            "$.events[1].token_ids[0]: expected an int, got array",
        ),
        (stored(token_ids=wire.binary(b"1")), "$.events[1].token_ids: expected an array or nil"),
        (
            stored(block_size=wire.integer(2**31)),
            "$.events[1].block_size: expected an int from 0 to 2147483647 or nil, got 2147483648",
        ),
        (stored(block_size=wire.number(16.0)), "$.events[1].block_size: expected an int or nil"),
        (stored(lora_id=wire.TRUE), "$.events[1].lora_id: expected an int or nil, got bool"),
        (stored(medium=wire.binary(b"GPU")), "$.events[1].medium: expected a str or nil, got bin"),
        (stored(lora_name=wire.array()), "$.events[1].lora_name: expected a str or nil, got array"),
        (
            stored(extra_keys=wire.array()),
            "$.events[1].extra_keys: expected 1 elements, got 0",
        ),
        (
            stored(extra_keys=wire.array(wire.text("x"))),
            "$.events[1].extra_keys[0]: expected an array or nil, got str",
        ),
        (stored(group_idx=wire.integer(64)), "$.events[1].group_idx: expected an int from 0 to"),
        (removed(group_idx=wire.integer(-1)), "$.events[1].group_idx: expected an int from 0 to"),
        (stored(kv_cache_spec_kind=wire.integer(1)), "$.events[1].kv_cache_spec_kind: expected a str"),
        (
            stored(kv_cache_spec_sliding_window=wire.integer(-1)),
            "$.events[1].kv_cache_spec_sliding_window: expected an int from 0 to 2147483647",
        ),
        (stored(locality=wire.integer(1)), "$.events[1].locality: expected a str or nil, got int"),
        (removed(ownership=wire.array()), "$.events[1].ownership: expected a str or nil, got array"),
    ],
)
def test_a_bad_event_says_what_was_expected_where(event: bytes, message: str) -> None:
    assert str(only_error(event)).startswith(message)


def test_what_is_too_deep_in_a_bin_is_a_bad_event_and_elsewhere_breaks_the_batch() -> None:
    deep = wire.nested(100_000)
    assert only_error(wire.binary(deep)).reason == "bad_event"
    for event in (deep, stored(extra_keys=wire.array(deep)), stored(unknown=deep)):
        batch = decode_batch(batch_of(CLEARED, event, CLEARED))
        assert batch.events == (AllBlocksCleared(),)
        assert [(e.path, e.reason) for e in batch.errors] == [("$.events[1]", "broken_payload")]
        assert "512 containers" in batch.errors[0].got


CLAIM = b"\xff\xff\xff\xff"


@pytest.mark.parametrize(
    "payload",
    [
        b"\xdd" + CLAIM + TS + wire.array(),
        b"\xdf" + CLAIM + wire.text("events") + wire.array(),
        wire.array_forms([TS, b"\xdd" + CLAIM])[0],
        batch_of(b"\xdd" + CLAIM + wire.text("BlockStored")),
        batch_of(b"\xdf" + CLAIM + wire.text("type") + wire.text("BlockStored")),
        batch_of(stored(block_hashes=b"\xdd" + CLAIM)),
        batch_of(stored(token_ids=b"\xdd" + CLAIM)),
        batch_of(stored(extra_keys=b"\xdd" + CLAIM)),
        batch_of(stored(medium=b"\xdb" + CLAIM)),
        batch_of(b"\xc6" + CLAIM),
        batch_of(b"\xc9" + CLAIM),
        batch_of(wire.binary(stored(token_ids=b"\xdd" + CLAIM))),
    ],
)
def test_claimed_lengths_cost_nothing(payload: bytes) -> None:
    tracemalloc.start()
    try:
        batch = decode_batch(payload)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(batch.errors) == 1
    assert peak_bytes < 100_000


@pytest.mark.slow
@pytest.mark.parametrize("event", [wire.NIL, CLEARED, stored(token_ids=wire.integers(*[1] * 99))])
def test_memory_grows_with_the_payload_and_not_faster(event: bytes) -> None:
    peaks = []
    for n_events in (500, 2000):
        payload = batch_of(*[event] * n_events)
        tracemalloc.start()
        decode_batch(payload)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 6 * peaks[0]
