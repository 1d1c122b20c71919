"""Recordings that somebody else made: lengths that lie, kinds yet unknown, files inside files."""

from __future__ import annotations

import tracemalloc
import zlib
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.index.errors import RecordingError
from kvatlas.ingest.recording.format import (
    BLOCK_HEADER_BYTES,
    FILE_HEADER_BYTES,
    BlockHeader,
    BlockKind,
    Codec,
    FileHeader,
    pack_block_header,
    pack_file_header,
    unpack_body,
)
from kvatlas.ingest.recording.reader import RecordingReader
from kvatlas.ingest.recording.records import Message, Session, pack_message, pack_session
from tests.ingest.recording.recording_files import SMALL, SOURCE, frames_in, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kv.rec"


def forged(path: Path, *blocks: tuple[BlockHeader, bytes]) -> None:
    """A recording with a session and these blocks, whose headers have sound checksums."""
    header = FileHeader(mark=1, wall_ns=0, monotonic_ns=0)
    session = pack_session(Session(wall_ns=0, monotonic_ns=0, first_source=0, sources=(SOURCE,)))
    parts = [pack_file_header(header)]
    for block, body in ((described(session, kind=BlockKind.SESSION, records=1), session), *blocks):
        parts += [pack_block_header(1, block), body]
    path.write_bytes(b"".join(parts))


def described(body: bytes, *, plain_bytes: int | None = None, **others: int) -> BlockHeader:
    fields = {
        "kind": int(BlockKind.RECORDS),
        "codec": int(Codec.RAW),
        "stored_bytes": len(body),
        "records": 1,
    }
    plain = len(body) if plain_bytes is None else plain_bytes
    return BlockHeader(
        **{**fields, **others}, plain_bytes=plain, body_crc=zlib.crc32(body), first_ns=0, last_ns=0
    )


def a_message() -> bytes:
    body = bytearray()
    pack_message(body, 0, 0, (b"frame",))
    return bytes(body)


@pytest.mark.slow
def test_lengths_that_lie_cost_no_memory_and_raise_nothing(path: Path) -> None:
    good = a_message()
    bomb = zstandard.ZstdCompressor().compress(bytes(200 << 20))  # its own header names its size
    lies = [
        (described(bomb, codec=Codec.ZSTD, plain_bytes=len(bomb)), bomb),
        (described(bomb, codec=Codec.ZSTD, plain_bytes=100 << 20), bomb),
        (described(bomb[:9], codec=Codec.ZSTD, plain_bytes=100 << 20), bomb[:9]),
        (described(good, codec=7), good),
        (described(good[:-1]), good[:-1]),
        (described(good[:5]), good[:5]),
        (described(lie := good[:9] + b"\xff" * 4 + good[13:]), lie),  # the record's length
        (described(lie := good[:17] + b"\xff\xff\xff\x7f" + good[21:]), lie),  # the number of frames
        (described(lie := good[:21] + b"\xff\xff\xff\xff" + good[25:]), lie),  # a frame's length
        (described(lie := b"\x02" + good[1:]), lie),  # a loss of another size
        (described(good, records=2), good),  # what comes before the lie shows is read
    ]
    forged(path, *lies, (described(good), good))
    tracemalloc.start()
    try:
        with RecordingReader(path) as reader:
            frames = [record.frames for record in reader.records() if isinstance(record, Message)]
            assert frames == [(b"frame",)] * 2
            assert reader.damaged_blocks == len(lies)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 300 << 20


def test_a_block_beyond_the_end_or_beyond_the_bound_is_no_block(path: Path) -> None:
    good = a_message()
    forged(path, (described(good), good), (described(good, stored_bytes=2**31, plain_bytes=2**31), good))
    assert frames_in(path) == [(b"frame",)]
    forged(path, (described(good), good), (described(good, stored_bytes=2**20, plain_bytes=2**20), good))
    assert frames_in(path) == [(b"frame",)]


def test_a_recording_inside_a_damaged_recording_is_not_taken_for_its_own(path: Path, tmp_path: Path) -> None:
    write(tmp_path / "inner.rec", SMALL)
    body = bytearray()
    pack_message(body, 0, 0, ((tmp_path / "inner.rec").read_bytes(),))
    good = a_message()
    forged(path, (described(bytes(body)), bytes(body)), (described(good), good))
    bent = bytearray(path.read_bytes())
    assert bent.count(b"KVBK") > 5
    bent[bent.index(body) - 1] ^= 1  # the header's checksum
    path.write_bytes(bent)
    with RecordingReader(path) as reader:
        assert [record.frames for record in reader.records() if isinstance(record, Message)] == [(b"frame",)]
        assert reader.damaged_bytes == BLOCK_HEADER_BYTES + len(body)


def test_compressed_data_that_holds_more_than_it_should_is_damage() -> None:
    stored = zstandard.ZstdCompressor().compress(bytes(1000))
    header = described(stored, codec=Codec.ZSTD, plain_bytes=999)
    with pytest.raises(RecordingError, match="expected 999 bytes, got at least 1000"):
        unpack_body(header, stored)


def test_a_block_of_another_file_is_no_block_of_this_one(path: Path) -> None:
    good = a_message()
    forged(path, (described(good), good))
    path.write_bytes(path.read_bytes() + pack_block_header(2, described(good)) + good)
    with RecordingReader(path) as reader:
        assert len(list(reader.records())) == 1
        assert reader.torn_bytes == BLOCK_HEADER_BYTES + len(good)


@pytest.mark.parametrize("damaged_bytes", [1, 7, (1 << 20) - 3, (1 << 20) + 1])
def test_the_next_sound_block_is_found_behind_any_length_of_damage(path: Path, damaged_bytes: int) -> None:
    good = a_message()
    forged(path)
    block = pack_block_header(1, described(good)) + good
    path.write_bytes(path.read_bytes() + bytes(damaged_bytes) + block)
    with RecordingReader(path) as reader:
        assert len(list(reader.records())) == 1
        assert (reader.damaged_bytes, reader.torn_bytes) == (damaged_bytes, 0)


def test_records_and_blocks_of_kinds_yet_unknown_are_passed_over(path: Path) -> None:
    good = a_message()
    unknown = b"\x63" + good[1:]
    forged(path, (described(good, kind=99), good), (described(body := unknown + good, records=2), body))
    with RecordingReader(path) as reader:
        assert len(list(reader.records())) == 1
        assert reader.damaged_blocks == 0


@given(tail=st.binary(max_size=300))
def test_any_bytes_are_a_recording_or_a_typed_error(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes
) -> None:
    path = tmp_path_factory.mktemp("recording") / "kv.rec"
    path.write_bytes(tail)
    with pytest.raises(RecordingError):
        RecordingReader(path)
    forged(path)
    path.write_bytes(path.read_bytes() + tail)
    with RecordingReader(path) as reader:
        assert (list(reader.records()), reader.torn_bytes) == ([], len(tail))


def test_the_headers_are_as_long_as_the_format_says(path: Path) -> None:
    forged(path)
    assert path.read_bytes()[FILE_HEADER_BYTES : FILE_HEADER_BYTES + 4] == b"KVBK"
    assert len(pack_block_header(1, described(b""))) == BLOCK_HEADER_BYTES
