"""Payloads as model servers write them: recorded ones, and each release's own encoding."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from kvatlas.ingest.wire.decoding import decode_batch
from kvatlas.ingest.wire.events import AllBlocksCleared, BlockStored, Event


def brief(event: Event) -> str:
    """As the index of the recorded payloads describes an event."""
    if isinstance(event, AllBlocksCleared):
        return "AllBlocksCleared:None:0"
    return f"{type(event).__name__}:{event.medium}:{len(event.block_hashes)}"


def test_recorded_payloads_of_vllm_hold_what_their_index_says(shared: Path) -> None:
    folder = shared / "fixtures" / "vllm-0.32"
    for entry in json.loads((folder / "index.json").read_text()):
        batch = decode_batch((folder / entry["file"]).read_bytes())
        assert batch.errors == ()
        assert batch.unknown_events == 0
        assert len(batch.events) == entry["n_events"], entry["file"]
        assert [brief(event) for event in batch.events[: len(entry["events"])]] == entry["events"]
        assert batch.data_parallel_rank == entry["dp_rank"]
        for event in batch.events:
            if isinstance(event, BlockStored) and event.medium == "GPU":
                assert len(event.token_ids) == 32 * len(event.block_hashes)
                assert event.extra_keys is not None
                assert event.kv_cache_spec_kind == "full_attention"


def test_a_recorded_salt_lies_among_the_extra_keys(shared: Path) -> None:
    payload = (shared / "fixtures" / "vllm-0.32" / "03_int64_seq3.msgpack").read_bytes()
    event = decode_batch(payload).events[0]
    assert isinstance(event, BlockStored)
    assert event.extra_keys == (("tenant-a",), None, None)
    assert event.token_ids == tuple(range(3, 99))


class Tagged(msgspec.Struct, tag=True, array_like=True, omit_defaults=True):
    """How the servers' releases declare their events; a release adds fields at the end."""


class StoredUntil010(Tagged, tag="BlockStored"):
    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None = None


class StoredUntil016(StoredUntil010, tag="BlockStored", omit_defaults=False):
    lora_name: str | None = None


class StoredUntil023(StoredUntil016, tag="BlockStored", omit_defaults=True):
    extra_keys: list[tuple[str | tuple[str, int] | bytes, ...] | None] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None


class StoredFrom024(StoredUntil023, tag="BlockStored", array_like=False):
    locality: str | None = None
    session_id: str | None = None


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (
            StoredUntil010([-1], None, [7, 8], 2, 5),
            BlockStored(block_hashes=(2**64 - 1,), token_ids=(7, 8), block_size=2, lora_id=5),
        ),
        (
            StoredUntil016([1], 9, [7], 1, None, "GPU", "sql"),
            BlockStored(
                block_hashes=(1,),
                parent_block_hash=9,
                token_ids=(7,),
                block_size=1,
                medium="GPU",
                lora_name="sql",
            ),
        ),
        (
            StoredUntil023([1, 2], 0, [7, 8], 1, None, "CPU", None, [("a", ("b", -1)), None], 3),
            BlockStored(
                block_hashes=(1, 2),
                token_ids=(7, 8),
                block_size=1,
                medium="CPU",
                extra_keys=(("a", ("b", -1)), None),
                group_idx=3,
            ),
        ),
        (
            StoredFrom024([1], 2, [], 0, None, "STORAGE", locality="LOCAL", session_id="x"),
            BlockStored(block_hashes=(1,), parent_block_hash=2, medium="STORAGE", locality="LOCAL"),
        ),
    ],
)
def test_each_release_is_read_as_it_writes(sent: Tagged, expected: BlockStored) -> None:
    for batch in ([1, [sent]], [1.0, [sent], 0, None], {"ts": 1, "events": [sent]}):
        assert decode_batch(msgspec.msgpack.encode(batch)).events == (expected,)
    in_bin = [1.0, [msgspec.msgpack.encode(sent)]]
    assert decode_batch(msgspec.msgpack.encode(in_bin)).events == (expected,)
