"""Checkpoint files: whole or refused. What lies in them, read by mirrors and stores that trust nothing."""

from __future__ import annotations

import random
import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvatlas.index.errors import CheckpointError, InputError
from kvatlas.index.keys import keyspace
from kvatlas.ingest import checkpoint
from kvatlas.ingest._native import Decoder, Mirror, Store
from kvatlas.ingest.checkpoint import (
    CheckpointHead,
    GroupMark,
    KeyspaceMark,
    StoreIdentity,
    StreamPosition,
    WorkerIdentity,
    read_checkpoint,
    write_checkpoint,
)
from kvatlas.ingest.wire.events import BlockRemoved
from tests.models.announcements import store_of
from tests.models.content import Chain
from tests.models.payloads import Event, packed
from tests.profiles import examples

BLOCK = 4
SPACE = keyspace("m", BLOCK, hash_seed="seed")
MARK = KeyspaceMark.of(SPACE, "fold64", BLOCK)
IDENTITY = WorkerIdentity("m", "pod", 0, MARK)
HEAD = CheckpointHead(
    identity=IDENTITY,
    time_s=1.5,
    groups=(GroupMark(0, "full_attention"), GroupMark(2, "sliding_window", 128, 16)),
    position=StreamPosition(2**63, 2**64 - 1),
    truth=b"\x00doubts",
)


def write(folder: Path, parts: list[bytes] | None = None, head: CheckpointHead = HEAD) -> Path:
    path = folder / "pod.checkpoint"
    write_checkpoint(path, head, [b"one", b"two" * 1000] if parts is None else parts)
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = write(tmp_path)
    found = read_checkpoint(path, IDENTITY)
    assert found.head == HEAD
    assert found.parts == [b"one", b"two" * 1000]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert b"seed" not in path.read_bytes()


def test_a_newer_one_takes_the_place_of_an_older(tmp_path: Path) -> None:
    write(tmp_path, [b"older"])
    assert read_checkpoint(write(tmp_path, []), IDENTITY).parts == []


def test_one_that_fails_half_way_leaves_the_older(tmp_path: Path) -> None:
    def parts() -> Iterator[bytes]:
        yield b"newer"
        raise CheckpointError("the mirror was cleared")

    path = write(tmp_path, [b"older"])
    with pytest.raises(CheckpointError, match="was cleared"):
        write_checkpoint(path, HEAD, parts())
    assert read_checkpoint(path, IDENTITY).parts == [b"older"]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("target", ["folder that is not there/file", "taken"])
def test_a_disk_that_does_not_take_it_is_a_checkpoint_error(tmp_path: Path, target: str) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(CheckpointError, match="expected to write a checkpoint"):
        write_checkpoint(tmp_path / target, HEAD, [])
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        (WorkerIdentity("n", "pod", 0, MARK), "expected model 'n', got 'm'"),
        (WorkerIdentity("m", "other", 0, MARK), "expected pod 'other', got 'pod'"),
        (WorkerIdentity("m", "pod", 1, MARK), "expected rank 1, got 0"),
        (StoreIdentity("m", "pod", MARK), "expected that of a store, got that of a worker"),
        (
            WorkerIdentity("m", "pod", 0, KeyspaceMark.of(keyspace("m", 8), "fold64", 8)),
            "expected keyspace .*block_size_tokens=8",
        ),
        (
            WorkerIdentity(
                "m", "pod", 0, KeyspaceMark.of(keyspace("m", BLOCK, hash_seed="x"), "fold64", BLOCK)
            ),
            "expected block keys of this atlas's hash_seed",
        ),
    ],
)
def test_that_of_another_is_refused(
    tmp_path: Path, identity: WorkerIdentity | StoreIdentity, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(write(tmp_path), identity)


def test_a_file_that_is_none_or_too_large_or_of_another_version_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises(CheckpointError, match="expected at most 100 bytes"):
        read_checkpoint(path, IDENTITY, bytes_max=100)
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", checkpoint.VERSION), b"\x09\0\0\0", 1))
    with pytest.raises(CheckpointError, match="expected version 1, got 9"):
        read_checkpoint(path, IDENTITY)
    path.write_bytes(b"\x89PNG and more")
    with pytest.raises(CheckpointError, match=r"begins with b.*PNG"):
        read_checkpoint(path, IDENTITY)
    with pytest.raises(CheckpointError, match="No such file"):
        read_checkpoint(tmp_path / "none", IDENTITY)


def test_a_head_that_is_none_is_refused_though_its_checksum_is_right(tmp_path: Path) -> None:
    path = tmp_path / "pod.checkpoint"
    head = b"\x81\xa1x\x01"
    section = struct.pack("<II", len(head), zlib.crc32(head)) + head
    path.write_bytes(checkpoint.MAGIC + struct.pack("<I", checkpoint.VERSION) + section + bytes(8))
    with pytest.raises(CheckpointError, match="expected a head, got"):
        read_checkpoint(path, IDENTITY)


@pytest.mark.slow
def test_every_truncation_and_every_byte_flipped_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, [b"one", b"two"])
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(CheckpointError):
            read_checkpoint(path, IDENTITY)
    for at in range(len(whole)):
        for mask in (0x01, 0x80, 0xFF):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ mask]) + whole[at + 1 :])
            with pytest.raises(CheckpointError):
                read_checkpoint(path, IDENTITY)
    path.write_bytes(whole + b"\0")
    with pytest.raises(CheckpointError, match="expected the end"):
        read_checkpoint(path, IDENTITY)


# The content: past checksums, nothing in it may do harm.

CHAINS = {
    "whole": Chain("salt", (0, 1, 0, 2), 4),
    "twice the index's": Chain("plain", (0, 1, 1, 2), 8),
    "parts": Chain("salt", (0, 1, 0, 1, 2), 3),
    "unindexed": Chain("opaque", (0, 1, 0, 1), 4),
}


def history(chain: Chain) -> list[Event]:
    """Copies in two groups and tiers, ghosts, doubts, an orphan."""
    blocks = len(chain.path)
    cpu = {"medium": "CPU", "token_ids": (), "block_size": 0, "parent_block_hash": None, "extra_keys": None}
    lone = Chain("plain", (2, 2, 2), chain.size)
    return [
        store_of(chain, 0, blocks),
        store_of(chain, 0, 2),
        store_of(chain, 1, blocks, group_idx=2, extra_keys=None),
        store_of(chain, 0, 1, block_hashes=(chain.key(1), chain.key(2)), **cpu),
        BlockRemoved(block_hashes=(chain.key(0), chain.key(blocks - 1))),
        store_of(lone, 1, 3),
    ]


def new_mirror() -> Mirror:
    mirror = Mirror(SPACE, 1, 4, 8, 1 << 16)
    for group in (0, 1, 2):
        mirror.set_lane(group, group, group != 2)
    return mirror


def applied(mirror: Mirror, events: list[Event]) -> Mirror:
    decoder = Decoder()
    decoder.decode(packed(events))
    mirror.gather(decoder)
    return mirror


def written(chain: Chain) -> list[bytes]:
    snapshot = applied(new_mirror(), history(chain)).begin_snapshot()
    return list(iter(snapshot.part, None))


def live_on(parts: list[bytes]) -> bool:
    """Restores and, if that is not refused, does everything with the mirror that can be done."""
    mirror = new_mirror()
    try:
        mirror.restore(parts)
    except CheckpointError:
        assert mirror.sizes()["nodes"] == mirror.sizes()["orphans"] == 0
        assert not mirror.residency()
        return False
    mirror.residency()
    mirror.content(3)
    mirror.doubt()
    for chain in CHAINS.values():
        applied(mirror, [*history(chain), store_of(Chain("plain", (2, 2, 2), chain.size), 0, 1)])
    keys = [chain.key(i) for chain in CHAINS.values() for i in range(len(chain.path))]
    again = new_mirror()
    snapshot = mirror.begin_snapshot()
    applied(mirror, [BlockRemoved(block_hashes=tuple(keys), group_idx=group) for group in (0, 2)])
    again.restore(list(iter(snapshot.part, None)))
    return True


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_a_mirror_reads_what_a_mirror_wrote_and_refuses_each_truncation(chain: Chain) -> None:
    parts = written(chain)
    assert len(parts) == 2
    assert live_on(parts)
    for end in range(len(parts[0])):
        assert not live_on([parts[0][:end], parts[1]])
    for end in range(1, len(parts[1])):
        assert not live_on([parts[0], parts[1][:end]])


@pytest.mark.slow
@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_no_byte_flipped_in_a_part_does_harm(chain: Chain) -> None:
    parts = written(chain)
    choose = random.Random(1)
    outcomes = set()
    for number, part in enumerate(parts):
        for at in range(len(part)):
            for mask in {1 << choose.randrange(8), 0xFF}:
                changed = list(parts)
                changed[number] = part[:at] + bytes([part[at] ^ mask]) + part[at + 1 :]
                outcomes.add(live_on(changed))
    assert outcomes == {True, False}


edits = st.lists(
    st.tuples(st.integers(0, 2000), st.binary(max_size=5), st.integers(0, 9)), min_size=1, max_size=4
)


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
@given(edits=edits)
@settings(
    max_examples=examples(60),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_no_edit_of_a_part_does_harm(chain: Chain, edits: list[tuple[int, bytes, int]]) -> None:
    parts = written(chain)
    for at, inserted, removed in edits:
        number = at % 2
        at %= len(parts[number]) or 1
        parts[number] = parts[number][:at] + inserted + parts[number][at + removed :]
    live_on(parts)


# Stores.


def filled_store() -> Store:
    store = Store(9)
    mirror = new_mirror()
    mirror.set_stores(None, store, [store])
    for chain in (CHAINS["whole"], CHAINS["twice the index's"], CHAINS["unindexed"]):
        names = tuple(chain.key(i) for i in range(len(chain.path)))
        in_storage = store_of(chain, 0, 1, block_hashes=names, medium="STORAGE", extra_keys=None)
        applied(mirror, [store_of(chain, 0, len(names)), in_storage])
    return store


def test_a_store_comes_back_with_what_its_names_mean() -> None:
    store = filled_store()
    again = Store(9)
    again.load(store.save(BLOCK), BLOCK)
    assert again.keys() == store.keys()
    assert len(again) == len(store) > 8
    assert sorted(map(sorted, again.content(3, 8))) == sorted(map(sorted, store.content(3, 8)))
    fresh = new_mirror()
    fresh.set_stores(None, again, [again])
    chain = CHAINS["whole"]
    placeholder = {"token_ids": (), "block_size": 0, "extra_keys": None}
    applied(fresh, [store_of(chain, 0, 1, block_hashes=(chain.key(2),), **placeholder)])
    assert fresh.residency()[0]


def test_a_store_takes_nothing_that_is_not_whole_or_not_its_own() -> None:
    saved = filled_store().save(BLOCK)
    with pytest.raises(InputError, match="expected an empty store"):
        filled_store().load(saved, BLOCK)
    for wrong, block, message in [
        (saved, 8, "the index's block size"),
        (b"", BLOCK, "expected 1 bytes, got 0"),
        (saved[:-1], BLOCK, "store, byte"),
        (saved + b"\0" * 9, BLOCK, "a block that is known or in a file"),
        (b"X" + saved[1:], BLOCK, "a store"),
    ]:
        store = Store(9)
        with pytest.raises(CheckpointError, match=message):
            store.load(wrong, block)
        assert len(store) == 0


def test_a_store_that_has_less_room_now_takes_what_it_can() -> None:
    store = Store(9, 3)
    store.load(filled_store().save(BLOCK), BLOCK)
    assert len(store) <= 3
    assert store.statistics()["refused"] > 0


def test_no_byte_flipped_in_a_store_does_harm() -> None:
    saved = filled_store().save(BLOCK)
    for at in range(len(saved)):
        store = Store(9)
        try:
            store.load(saved[:at] + bytes([saved[at] ^ 0xFF]) + saved[at + 1 :], BLOCK)
        except CheckpointError:
            assert len(store) == 0
        store.content(2, 8)
