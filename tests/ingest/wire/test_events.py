"""What the plain decoder makes of values in every form, and of bytes of any kind."""

from __future__ import annotations

import pytest
from hypothesis import given

from kvatlas.index.errors import DecodeError
from kvatlas.ingest.wire.decoding import decode_batch
from kvatlas.ingest.wire.events import (
    AllBlocksCleared,
    BlockRemoved,
    BlockStored,
    Event,
    EventBatch,
)
from tests.ingest.wire import wire_forms as wire
from tests.ingest.wire.mutations import example_payloads
from tests.ingest.wire.payloads import doubtful_batches, payloads, sound_batches
from tests.ingest.wire.wire_events import CLEARED, TS, batch_of, removed, stored


def only_event(event: bytes) -> Event:
    batch = decode_batch(batch_of(event))
    assert batch.errors == ()
    assert len(batch.events) == 1
    return batch.events[0]


def stored_event(**fields: bytes) -> BlockStored:
    event = only_event(stored(**fields))
    assert isinstance(event, BlockStored)
    return event


@pytest.mark.slow
@given(sound_batches())
def test_a_sound_batch_in_any_form_says_what_was_written(sound: tuple[EventBatch, bytes]) -> None:
    expected, payload = sound
    assert decode_batch(payload) == expected


@pytest.mark.slow
@given(payloads)
def test_any_bytes_are_a_batch_or_a_decode_error(payload: bytes) -> None:
    try:
        batch = decode_batch(payload)
    except DecodeError:
        return
    reasons = [error.reason for error in batch.errors]
    assert "broken_payload" not in reasons[:-1]
    assert all(error.path.startswith("$") for error in batch.errors)


@pytest.mark.slow
@given(doubtful_batches())
def test_whole_msgpack_is_never_called_broken(payload: bytes) -> None:
    try:
        batch = decode_batch(payload)
    except DecodeError:
        return
    assert {error.reason for error in batch.errors} <= {"bad_event"}


@pytest.mark.slow
@given(sound_batches())
def test_of_a_truncated_batch_the_events_before_the_end_stay(
    sound: tuple[EventBatch, bytes],
) -> None:
    whole, payload = sound
    for n_bytes in range(len(payload)):
        try:
            batch = decode_batch(payload[:n_bytes])
        except DecodeError:
            continue
        assert batch.events == whole.events[: len(batch.events)]
        if batch.errors:
            (error,) = batch.errors
            assert (error.reason, error.index) == ("broken_payload", len(batch.events))
            assert "at byte" in error.got


def test_every_example_of_the_wire_is_sound() -> None:
    for payload in example_payloads():
        batch = decode_batch(payload)
        assert batch.errors == ()
        assert batch.ts == 1.5e9
        assert batch.data_parallel_rank in (None, 3)


@pytest.mark.parametrize(
    ("raw", "ts"),
    [
        (wire.integer(7), 7.0),
        (wire.integer(-(2**63)), -(2.0**63)),
        (wire.float_forms(0.5)[1], 0.5),
        (wire.NIL, None),
        (wire.TRUE, None),
        (wire.text("1"), None),
        (wire.ext_forms(-1, b"\0" * 8)[0], None),
    ],
)
def test_a_time_is_a_number_or_none(raw: bytes, ts: float | None) -> None:
    assert decode_batch(wire.array(raw, wire.array())).ts == ts


@pytest.mark.parametrize(
    ("raw", "rank"),
    [
        (wire.integer(0), 0),
        (wire.integer(65_535), 65_535),
        (wire.integer(65_536), None),
        (wire.integer(-1), None),
        (wire.TRUE, None),
        (wire.number(1.0), None),
        (wire.NIL, None),
    ],
)
def test_a_rank_is_a_small_int_or_none(raw: bytes, rank: int | None) -> None:
    payload = wire.array(TS, wire.array(), raw, wire.nested(9))
    assert decode_batch(payload) == EventBatch(1.5, rank, (), (), 0)


def test_of_a_repeated_key_of_a_batch_the_first_events_and_the_last_of_the_others_count() -> None:
    pairs = [
        (wire.text("events"), wire.array(CLEARED)),
        (wire.text("ts"), TS),
        (wire.text("data_parallel_rank"), wire.integer(1)),
        (wire.binary(b"ts"), wire.integer(9)),
        (wire.array(wire.mapping()), wire.mapping()),
        (wire.text("events"), wire.NIL),
        (wire.text("ts"), wire.integer(2)),
        (wire.text("data_parallel_rank"), wire.text("x")),
    ]
    batch = decode_batch(wire.map_forms(pairs)[0])
    assert batch == EventBatch(2.0, None, (AllBlocksCleared(),), (), 0)


def test_an_event_of_an_unknown_type_is_counted_and_nothing_else() -> None:
    new = wire.array(wire.text("BlockMoved"), wire.NIL)
    payload = batch_of(new, CLEARED, wire.binary(new), wire.mapping(type=wire.text("")))
    batch = decode_batch(payload)
    assert batch == EventBatch(1.5, 0, (AllBlocksCleared(),), (), 3)


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (wire.integer(5), 5),
        (wire.integer(2**64 - 1), 2**64 - 1),
        (wire.integer(-1), 2**64 - 1),
        (wire.integer(-(2**63)), 2**63),
        (wire.binary(b"\x05"), 5),
        (wire.binary(b"\x01\x02"), 0x102),
        (wire.binary(b"\xff" * 24 + bytes(range(8))), 0x0001020304050607),
        (wire.integer(0), 0),
    ],
)
def test_a_hash_in_any_form_is_one_unsigned_number(raw: bytes, name: int) -> None:
    event = stored_event(block_hashes=wire.array(raw), parent_block_hash=raw)
    assert event.block_hashes == (name,)
    assert event.parent_block_hash == (name or None)


def test_a_parent_of_zero_bytes_is_none() -> None:
    assert stored_event(parent_block_hash=wire.binary(bytes(32))).parent_block_hash is None


def test_what_an_event_leaves_out_is_what_nil_would_be() -> None:
    fields = ("parent_block_hash", "token_ids", "block_size", "medium", "extra_keys", "group_idx")
    nothing = stored_event()
    assert nothing == stored_event(**dict.fromkeys(fields, wire.NIL))
    assert nothing == BlockStored(block_hashes=(1,))
    assert only_event(removed(group_idx=wire.NIL)) == BlockRemoved(block_hashes=(1,), group_idx=0)


def test_extra_keys_that_are_all_nil_differ_from_none() -> None:
    assert stored_event(extra_keys=wire.array(wire.NIL)).extra_keys == (None,)
    assert stored_event(extra_keys=wire.NIL).extra_keys is None
    none = stored_event(block_hashes=wire.array(), extra_keys=wire.array())
    assert none.extra_keys == ()


def test_each_extra_key_keeps_its_kind_or_is_opaque() -> None:
    x, three = wire.text("x"), wire.integer(3)
    sent_to_kept = [
        (x, "x"),
        (wire.binary(b"x"), b"x"),
        (wire.array(x, three), ("x", 3)),
        (wire.array(x, wire.integer(-(2**63)), wire.NIL), ("x", -(2**63))),
        (wire.array(x, wire.integer(2**63)), None),
        (wire.array(x, wire.TRUE), None),
        (wire.array(three, x), None),
        (wire.array(x), None),
        (wire.array(), None),
        (wire.mapping(x=three), None),
        (three, None),
        (wire.NIL, None),
        (wire.ext_forms(-1, b"\xff" * 3)[0], None),
        (wire.nested(90), None),
    ]
    event = stored_event(extra_keys=wire.array(wire.array(*(sent for sent, _ in sent_to_kept))))
    assert event.extra_keys == (tuple(kept for _, kept in sent_to_kept),)


@pytest.mark.parametrize(
    ("raw", "lora_name", "cache_salt"),
    [
        (wire.text("sql"), "sql", None),
        (wire.mapping(cache_salt=wire.text("tenant")), None, "tenant"),
        (wire.mapping(other=wire.nested(9), cache_salt=wire.text("")), None, ""),
        (wire.mapping(cache_salt=wire.integer(1)), None, None),
        (wire.mapping(), None, None),
    ],
)
def test_sglang_puts_a_salt_where_the_lora_name_should_be(
    raw: bytes, lora_name: str | None, cache_salt: str | None
) -> None:
    event = stored_event(lora_name=raw)
    assert (event.lora_name, event.cache_salt) == (lora_name, cache_salt)


def test_only_the_last_of_a_repeated_key_of_an_event_is_looked_at() -> None:
    pairs = [
        (wire.text("type"), wire.TRUE),
        (wire.text("block_hashes"), wire.text("no array")),
        (wire.array(), wire.NIL),
        (wire.text("medium"), wire.text("GPU")),
        (wire.text("type"), wire.text("BlockRemoved")),
        (wire.text("block_hashes"), wire.integers(1)),
        (wire.text("medium"), wire.text("CPU")),
        (wire.text("session_id"), wire.mapping()),
    ]
    event = only_event(wire.map_forms(pairs)[0])
    assert event == BlockRemoved(block_hashes=(1,), medium="CPU")


def test_strings_that_are_not_utf8_keep_their_bytes() -> None:
    medium = stored_event(medium=b"\xa2\xff\xc3").medium
    assert medium is not None
    assert medium.encode("utf-8", "surrogateescape") == b"\xff\xc3"
