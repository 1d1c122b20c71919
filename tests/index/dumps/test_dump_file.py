"""Dump files and streams: whole or refused; other keys are refused; loading into what holds something."""

from __future__ import annotations

import io
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.index.dumps.dump_file import DumpReader, DumpWriter, write_dump
from kvatlas.index.dumps.loading import load_dump
from kvatlas.index.dumps.meta import DumpMeta, KeyspacePrint, keyspaces_of, require_keyspaces
from kvatlas.index.dumps.owners import LaneOwner, lanes_between
from kvatlas.index.errors import DumpError
from kvatlas.index.shards import ShardedIndex
from kvatlas.index.view import FleetPart
from tests.index.dumps.worlds import added, apply_all, held_by, part_of

pytestmark = pytest.mark.native

META = DumpMeta(
    created_s=1.7e9,
    cluster="here",
    keyspaces=keyspaces_of([part_of({})], "fold64", "seed"),
    parts=(part_of({"a": 0, "b": 1}, {"nfs": 2}),),
)


def small_index() -> ShardedIndex:
    index = ShardedIndex(2)
    apply_all(index, [added(lane, segment, lane + 1) for segment in range(4) for lane in range(3)])
    return index


def dumped(index: ShardedIndex | None = None) -> bytes:
    stream = io.BytesIO()
    write_dump(stream, META, (index or small_index()).export())
    return stream.getvalue()


WHOLE = dumped()


def read(content: bytes) -> list[bytes]:
    return list(DumpReader(io.BytesIO(content)))


def test_a_dump_by_path_says_what_was_written_and_is_the_owners_only(tmp_path: Path) -> None:
    path = tmp_path / "index.dump"
    totals = write_dump(path, META, small_index().export())
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["index.dump"]
    with DumpReader(path) as dump:
        assert dump.meta == META
        assert dump.totals is None
        sections = list(dump)
        assert dump.totals == totals
    assert held_by(sections) == held_by(small_index().export())
    assert (totals.sections, totals.entries, totals.pairs) == (2, 512, 1536)
    assert totals.section_bytes == sum(map(len, sections))


def test_a_dump_goes_through_a_pipe_while_it_is_written() -> None:
    reads, writes = os.pipe()

    def write() -> None:
        with os.fdopen(writes, "wb", buffering=0) as file:
            write_dump(file, META, small_index().export())

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(reads, "rb", buffering=0) as file:
        assert held_by(DumpReader(file)) == held_by(small_index().export())
    thread.join()


@given(st.integers(0, len(WHOLE) - 1))
def test_a_dump_cut_short_anywhere_is_refused_saying_where(at: int) -> None:
    with pytest.raises(DumpError, match=r"stream, (byte|section at byte) \d+.*: expected"):
        read(WHOLE[:at])


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_a_dump_with_any_byte_changed_is_refused(at: int, change: int) -> None:
    changed = bytearray(WHOLE)
    changed[at] ^= change
    with pytest.raises(DumpError, match=r"stream, (byte|section at byte) \d+.*: expected"):
        read(bytes(changed))


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_refused(content: bytes, with_start: bool) -> None:
    with pytest.raises(DumpError):
        read(WHOLE[:12] + content if with_start else content)


def chunks_of(content: bytes) -> list[bytes]:
    at, chunks = 12, []
    while at < len(content):
        length = struct.unpack_from("<I", content, at + 4)[0]
        chunks.append(content[at : at + 12 + length])
        at += 12 + length
    return chunks


def test_sections_that_are_missing_doubled_or_in_another_order_are_noticed() -> None:
    start, (meta, first, second, end) = WHOLE[:12], chunks_of(WHOLE)
    assert read(start + meta + first + second + end)
    for chunks in ([first], [first, first], [second, first], [first, second, second]):
        with pytest.raises(DumpError, match="sections are missing or strange"):
            read(start + meta + b"".join(chunks) + end)
    with pytest.raises(DumpError, match="expected a chunk b'META'"):
        read(start + first + second + end)
    with pytest.raises(DumpError, match="expected a section or the end"):
        read(start + meta + meta + end)


def test_another_version_a_foreign_file_and_no_file_are_named(tmp_path: Path) -> None:
    newer = WHOLE[:8] + struct.pack("<I", 2) + WHOLE[12:]
    with pytest.raises(DumpError, match="expected dump format version 1, got 2: another release"):
        read(newer)
    with pytest.raises(DumpError, match="expected a dump, got what begins with b'KVATLAS"):
        read(b"KVATLAS\n" + WHOLE[8:])
    with pytest.raises(DumpError, match="No such file"):
        DumpReader(tmp_path / "none")
    (tmp_path / "longer").write_bytes(WHOLE + b"\0")
    with (
        pytest.raises(DumpError, match="expected the end of the file"),
        DumpReader(tmp_path / "longer") as dump,
    ):
        list(dump)


def test_a_length_that_lies_costs_no_memory_and_one_beyond_its_bound_is_refused() -> None:
    head = struct.pack("<4sI", b"SECT", 60 << 20)
    with pytest.raises(DumpError, match="cut short"):
        read(WHOLE[:12] + chunks_of(WHOLE)[0] + head + struct.pack("<I", zlib.crc32(head)) + b"abc")
    with pytest.raises(DumpError, match="within its bounds"):
        read(WHOLE[:12] + chunks_of(WHOLE)[0] + struct.pack("<4sII", b"SECT", 65 << 20, 0))


def test_a_head_that_is_no_head_is_refused() -> None:
    body = msgspec.msgpack.encode({"created_s": "today"})
    head = struct.pack("<4sI", b"META", len(body))
    with pytest.raises(DumpError, match="expected a DumpMeta"):
        read(WHOLE[:12] + head + struct.pack("<I", zlib.crc32(body, zlib.crc32(head))) + body)


def test_where_the_sections_fail_or_the_disk_is_full_an_older_dump_stays(tmp_path: Path) -> None:
    path = tmp_path / "index.dump"
    write_dump(path, META, small_index().export())
    before = path.read_bytes()

    def failing() -> Iterator[bytes]:
        yield from small_index().export()
        raise RuntimeError("the shard is gone")

    with pytest.raises(RuntimeError, match="shard is gone"):
        write_dump(path, META, failing())
    with pytest.raises(DumpError, match="content record"):
        write_dump(path, META, [b"no section"])
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(DumpError, match="No space left"):
        write_dump(full, META, small_index().export())
    with pytest.raises(DumpError, match="No such file"):
        DumpWriter(tmp_path / "none" / "index.dump", META)
    assert os.listdir(tmp_path) == ["index.dump"]
    assert path.read_bytes() == before


def test_a_torn_dump_changes_nothing_of_the_index_it_is_loaded_into() -> None:
    index = ShardedIndex(3)
    apply_all(index, [added(0, 50), added(7, 51)])
    before = held_by(index.export())
    with pytest.raises(DumpError):
        load_dump(DumpReader(io.BytesIO(WHOLE[:-1])), index)
    assert held_by(index.export()) == before
    totals = load_dump(DumpReader(io.BytesIO(WHOLE)), index)
    assert totals.pairs == 1536
    assert held_by(index.export()) == {
        **held_by(small_index().export()),
        **{key: tiers for key, tiers in before.items() if key[0] == 7},
    }


def test_lanes_go_to_those_of_the_same_pods_and_stores() -> None:
    live = [part_of({"b": 10}), part_of({"c": 11}, {"nfs": 12})]
    match = lanes_between(META.parts, live)
    assert match.lanes == {1: 10, 2: 12}
    assert match.missing == (LaneOwner("m", "a"),)
    index = ShardedIndex(1)
    load_dump(DumpReader(io.BytesIO(WHOLE)), index, match.lanes)
    expected = {
        (match.lanes[lane], key): t for (lane, key), t in held_by(read(WHOLE)).items() if lane in match.lanes
    }
    assert held_by(index.export()) == expected


def test_a_dump_of_another_seed_or_block_size_is_refused_and_the_seed_is_not_in_it() -> None:
    require_keyspaces(META, keyspaces_of([part_of({})], "fold64", "seed"))
    assert require_keyspaces(META, {}) == ("m",)
    with pytest.raises(DumpError, match="model 'm': expected block keys of this hash_seed, got another's"):
        require_keyspaces(META, keyspaces_of([part_of({})], "fold64", "other"))
    with pytest.raises(
        DumpError, match="expected block keys of 32 tokens by fold64, got 16 tokens by fold64"
    ):
        require_keyspaces(META, {"m": KeyspacePrint.of("m", 32, "fold64", "seed")})
    with pytest.raises(DumpError, match="16 tokens by fnv64a_cbor, got 16 tokens by fold64"):
        require_keyspaces(META, {"m": KeyspacePrint.of("m", 16, "fnv64a_cbor", "seed")})
    assert b"seed" not in WHOLE
    assert keyspaces_of([FleetPart(block_sizes={"not known yet": 0})], "fold64", "seed") == {}
