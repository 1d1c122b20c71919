"""What the simulated server writes, beside what real servers wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from kvatlas.index.errors import InputError
from kvatlas.ingest.simulator.event_encoder import (
    DIALECTS,
    WireAllBlocksCleared,
    WireBlockRemoved,
    WireBlockStored,
    WireEvent,
    encode_batch,
)
from kvatlas.ingest.wire.decoding import decode_batch
from kvatlas.ingest.wire.events import BlockRemoved, BlockStored

HIGH = 2**63 + 1

STORED = WireBlockStored(
    block_hashes=[HIGH, 7],
    parent_block_hash=5,
    token_ids=[1, 2, 3, 4],
    block_size=2,
    lora_id=3,
    medium="GPU",
    lora_name="lo",
    extra_keys=[("lo",), ("lo", ("image", -1))],
    group_idx=1,
    kv_cache_spec_kind="sliding_window",
    kv_cache_spec_sliding_window=64,
)
PLAIN = WireBlockStored(
    block_hashes=[1],
    parent_block_hash=None,
    token_ids=[1, 2],
    block_size=2,
    lora_id=None,
    medium="GPU",
    lora_name=None,
)
REMOVED = WireBlockRemoved(block_hashes=[9], medium="GPU", group_idx=1)

HEAD = [[HIGH, 7], 5, [1, 2, 3, 4], 2, 3, "GPU"]
EXTRAS = [["lo"], ["lo", ["image", -1]]]
PLAIN_HEAD = [[1], None, [1, 2], 2, None, "GPU"]


KINDS: dict[str, Callable[..., WireEvent]] = {
    "BlockStored": WireBlockStored,
    "BlockRemoved": WireBlockRemoved,
    "AllBlocksCleared": WireAllBlocksCleared,
}


def written(events: list[WireEvent], dialect: str) -> object:
    payload = encode_batch(events, timestamp_s=1.5, data_parallel_rank=2, dialect=dialect)
    return msgspec.msgpack.decode(payload)


def test_recorded_payloads_are_written_again_byte_for_byte(shared: Path) -> None:
    recorded = sorted((shared / "fixtures" / "vllm-0.32").glob("*.msgpack"))
    assert recorded
    for path in recorded:
        payload = path.read_bytes()
        timestamp_s, events, rank = msgspec.msgpack.decode(payload)
        again = encode_batch(
            [KINDS[fields.pop("type")](**fields) for fields in events],
            timestamp_s=timestamp_s,
            data_parallel_rank=rank,
            dialect="0.32",
        )
        assert again == payload, path.name


# The arrays as the event classes of those releases write them, element for element.
@pytest.mark.parametrize(
    ("dialect", "stored", "plain", "removed"),
    [
        ("0.10.2", HEAD, PLAIN_HEAD, [[9], "GPU"]),
        ("0.14.1", [*HEAD, "lo"], [*PLAIN_HEAD, None], [[9], "GPU"]),
        ("0.19.1", [*HEAD, "lo", EXTRAS], [*PLAIN_HEAD, None, None], [[9], "GPU"]),
        (
            "0.23.0",
            [*HEAD, "lo", EXTRAS, 1, "sliding_window", 64],
            [*PLAIN_HEAD, None, None, None, None, None],
            [[9], "GPU", 1],
        ),
    ],
)
def test_older_releases_write_arrays_of_their_own_lengths(
    dialect: str, stored: list[object], plain: list[object], removed: list[object]
) -> None:
    assert written([STORED, PLAIN, REMOVED, WireAllBlocksCleared()], dialect) == [
        1.5,
        [
            ["BlockStored", *stored],
            ["BlockStored", *plain],
            ["BlockRemoved", *removed],
            ["AllBlocksCleared"],
        ],
        2,
    ]


def test_maps_leave_out_the_later_fields_that_are_none() -> None:
    assert written([PLAIN], "0.32") == [
        1.5,
        [
            {
                "type": "BlockStored",
                "block_hashes": [1],
                "parent_block_hash": None,
                "token_ids": [1, 2],
                "block_size": 2,
                "lora_id": None,
                "medium": "GPU",
                "lora_name": None,
            }
        ],
        2,
    ]


def test_sglang_writes_an_event_for_each_page_with_signed_hashes_and_the_salt_beside() -> None:
    salted = WireBlockStored(
        block_hashes=[HIGH, 7],
        parent_block_hash=None,
        token_ids=[1, 2, 3, 4],
        block_size=2,
        lora_id=None,
        medium="CPU",
        lora_name=None,
        extra_keys=[("pepper",), None],
    )
    signed = HIGH - 2**64
    removed = WireBlockRemoved(block_hashes=[HIGH, 7], medium="STORAGE")
    payload = encode_batch(
        [salted, PLAIN, removed, WireAllBlocksCleared()],
        timestamp_s=1.5,
        data_parallel_rank=None,
        dialect="sglang",
    )
    salt = {"cache_salt": "pepper"}
    assert msgspec.msgpack.decode(payload) == [
        1.5,
        [
            ["BlockStored", [signed], None, [1, 2], 2, None, "CPU_PINNED", salt],
            ["BlockStored", [7], signed, [3, 4], 2, None, "CPU_PINNED", salt],
            ["BlockStored", [1], None, [1, 2], 2, None, "GPU"],
            ["BlockRemoved", [signed], "EXTERNAL"],
            ["BlockRemoved", [7], "EXTERNAL"],
            ["AllBlocksCleared"],
        ],
    ]


def test_sglang_keeps_a_salt_apart_from_a_lora_of_the_same_name() -> None:
    salted = msgspec.structs.replace(PLAIN, lora_name="x", extra_keys=[("x", ("image", 0), "x")])
    plain = msgspec.structs.replace(PLAIN, lora_name="x", extra_keys=[("x",)])
    batch = decode_batch(encode_batch([salted, plain], timestamp_s=1.0, dialect="sglang"))
    first, second = batch.events
    assert isinstance(first, BlockStored)
    assert isinstance(second, BlockStored)
    assert (first.cache_salt, first.lora_name) == ("x", None)
    assert (second.cache_salt, second.lora_name) == (None, "x")


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_every_dialect_says_the_same_of_blocks_and_tokens(dialect: str) -> None:
    batch = decode_batch(
        encode_batch([STORED, REMOVED, WireAllBlocksCleared()], timestamp_s=1.0, dialect=dialect)
    )
    assert batch.errors == ()
    assert batch.unknown_events == 0
    stored = [event for event in batch.events if isinstance(event, BlockStored)]
    removed = [event for event in batch.events if isinstance(event, BlockRemoved)]
    assert [name for event in stored for name in event.block_hashes] == [HIGH, 7]
    assert [token for event in stored for token in event.token_ids] == [1, 2, 3, 4]
    assert stored[0].parent_block_hash == 5
    assert [name for event in removed for name in event.block_hashes] == [9]


def test_unknown_dialect_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"expected one of .*0\.32.*got '9\.9'"):
        encode_batch([PLAIN], timestamp_s=1.0, dialect="9.9")
