"""The file of a recording: what is written is read, whatever happens to the file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.index.errors import RecordingError
from kvatlas.ingest.recording.format import (
    FILE_HEADER_BYTES,
    INDEX_END,
    BlockKind,
    unpack_file_header,
)
from kvatlas.ingest.recording.reader import RecordingReader
from kvatlas.ingest.recording.records import Lost, Message, Role, Source
from kvatlas.ingest.recording.scan import scan
from kvatlas.ingest.recording.writer import RecordingWriter
from tests.ingest.recording.recording_files import (
    SMALL,
    SOURCE,
    file_bytes_max,
    frames_in,
    read,
    second,
    write,
)

any_frames = st.lists(st.binary(max_size=60), max_size=5).map(tuple)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kv.rec"


@pytest.fixture
def small(path: Path) -> bytes:
    """A recording of two sessions and several blocks, as bytes."""
    write(path, SMALL[:8], chunk_bytes=150)
    write(path, SMALL[8:], chunk_bytes=150, append=True)
    return path.read_bytes()


def block_ends(path: Path) -> list[tuple[int, int]]:
    """Where each block of records ends, and how many records it has."""
    fd = os.open(path, os.O_RDONLY)
    try:
        blocks = scan(fd, "").blocks
    finally:
        os.close(fd)
    return [(block.end, block.header.records) for block in blocks if block.header.kind == BlockKind.RECORDS]


def whole_records(ends: list[tuple[int, int]], size: int) -> int:
    return sum(records for end, records in ends if end <= size)


@given(
    sessions=st.lists(st.lists(any_frames, max_size=12), min_size=1, max_size=3),
    chunk_bytes=st.integers(1, 400),
)
def test_any_frames_of_any_session_come_back_in_order(
    tmp_path_factory: pytest.TempPathFactory, sessions: list[list[tuple[bytes, ...]]], chunk_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("recording") / "kv.rec"
    for messages in sessions:
        write(path, messages, chunk_bytes=chunk_bytes, append=True)
    written = [frames for messages in sessions for frames in messages]
    assert frames_in(path) == written
    with RecordingReader(path) as reader:
        assert len(reader.sessions) == len(sessions)
        assert reader.sources == dict.fromkeys(range(len(sessions)), SOURCE)
        times = [record.time_ns for record in reader.records()]
        assert times == sorted(times)
        by_session = [list(reader.records(session=session)) for session in reader.sessions]
        assert [len(records) for records in by_session] == [len(messages) for messages in sessions]
        assert (reader.has_index, reader.torn_bytes, reader.damaged_blocks) == (True, 0, 0)


def test_a_loss_stands_where_messages_are_missing(path: Path) -> None:
    with RecordingWriter(path, [SOURCE]) as writer:
        writer.message(0, (b"before",), second(writer, 1))
        writer.lost(0, 7, second(writer, 2))
        writer.message(0, (b"after",), second(writer, 3))
    before, lost, after = read(path)
    assert isinstance(before, Message) and isinstance(after, Message)
    assert (before.frames, after.frames) == ((b"before",), (b"after",))
    assert lost == Lost(time_ns=2_000_000_000, source=0, messages=7)


def test_sources_keep_their_endpoint_kind_and_partner_over_sessions(path: Path) -> None:
    sources = [
        Source(endpoint="tcp://10.0.0.9:5557"),
        Source(endpoint="tcp://*:5557", role=Role.BOUND),
        Source(endpoint="tcp://10.0.0.9:5558", role=Role.REPLAY, replay_of=0),
    ]
    for _ in range(2):
        RecordingWriter(path, sources, append=True).close()
    with RecordingReader(path) as reader:
        assert [reader.sources[number] for number in range(3)] == sources
        assert reader.sources[5] == Source(endpoint="tcp://10.0.0.9:5558", role=Role.REPLAY, replay_of=3)


@pytest.mark.parametrize(
    ("from_s", "to_s", "seconds"),
    [(0, 100, range(12)), (3, 7, range(3, 7)), (11, 11.5, [11]), (12, 100, []), (5, 5, [])],
)
def test_a_stretch_of_time_is_read_alone(path: Path, from_s: float, to_s: float, seconds: list[int]) -> None:
    write(path, SMALL, chunk_bytes=150)
    with RecordingReader(path) as reader:
        records = list(reader.records(from_s, to_s))
    assert [record.time_ns // 1_000_000_000 for record in records] == list(seconds)


def test_time_never_runs_backwards_though_a_clock_does(path: Path) -> None:
    with RecordingWriter(path, [SOURCE]) as writer:
        for number in (5, 3, 6):
            writer.message(0, (b"x",), second(writer, number))
    assert [record.time_ns // 1_000_000_000 for record in read(path)] == [5, 5, 6]


@pytest.mark.slow
def test_a_recording_cut_anywhere_is_readable_up_to_the_cut(path: Path, small: bytes) -> None:
    ends = block_ends(path)
    assert len(ends) > 4
    for size in range(len(small)):
        path.write_bytes(small[:size])
        if size < FILE_HEADER_BYTES:
            with pytest.raises(RecordingError, match="expected a recording"):
                RecordingReader(path)
            continue
        with RecordingReader(path) as reader:
            frames = [record.frames for record in reader.records() if isinstance(record, Message)]
            assert frames == SMALL[: whole_records(ends, size)]
            assert (reader.has_index, reader.damaged_bytes, reader.damaged_blocks) == (False, 0, 0)


@pytest.mark.slow
def test_a_recording_cut_anywhere_is_gone_on_with(path: Path, small: bytes) -> None:
    ends = block_ends(path)
    for size in range(FILE_HEADER_BYTES, len(small)):
        path.write_bytes(small[:size])
        write(path, [(b"again",)], append=True)
        assert frames_in(path) == [*SMALL[: whole_records(ends, size)], (b"again",)]
        with RecordingReader(path) as reader:
            assert (reader.has_index, reader.torn_bytes, reader.damaged_bytes) == (True, 0, 0)
            assert len(reader.sources) == len(reader.sessions), "numbers are not given twice"


def test_a_torn_tail_of_any_length_is_cut_before_a_recording_goes_on(path: Path, small: bytes) -> None:
    path.write_bytes(small[:-1] + os.urandom(100_000))
    write(path, [(b"again",)], append=True)
    assert frames_in(path) == [*SMALL, (b"again",)]
    with RecordingReader(path) as reader:
        assert (reader.has_index, reader.torn_bytes, reader.damaged_bytes) == (True, 0, 0)


@given(data=st.data())
def test_a_flipped_bit_costs_at_most_the_block_that_it_lies_in(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("recording") / "kv.rec"
    write(path, SMALL, chunk_bytes=150)
    whole = path.read_bytes()
    most = max(records for _, records in block_ends(path))
    at = data.draw(st.integers(0, len(whole) - 1))
    bent = bytearray(whole)
    bent[at] ^= 1 << data.draw(st.integers(0, 7))
    if data.draw(st.booleans()):  # as a crash leaves it: without an index to help
        bent = bent[: whole.rindex(b"KVBK")]
    path.write_bytes(bent)
    if at < FILE_HEADER_BYTES:
        with pytest.raises(RecordingError):
            RecordingReader(path)
        return
    frames = frames_in(path)
    assert [one for one in SMALL if one in frames] == frames
    assert len(frames) >= len(SMALL) - most
    write(path, [(b"again",)], append=True)
    assert frames_in(path) == [*frames, (b"again",)], "going on deletes nothing that could be read"


def test_a_damaged_block_is_counted_and_the_others_are_read(path: Path) -> None:
    write(path, SMALL, chunk_bytes=150)
    (first_end, records), *_ = block_ends(path)
    bent = bytearray(path.read_bytes())
    bent[first_end - 1] ^= 1
    path.write_bytes(bent)
    with RecordingReader(path) as reader:
        frames = [record.frames for record in reader.records() if isinstance(record, Message)]
        assert (frames, reader.damaged_blocks) == (SMALL[records:], 1)
        list(reader.records())
        assert reader.damaged_blocks == 1, "once, however often it is read"


def test_without_its_index_a_recording_has_the_same_blocks(path: Path, small: bytes) -> None:
    with RecordingReader(path) as indexed:
        records = list(indexed.records())
        path.write_bytes(small[: -len(INDEX_END)])
        with RecordingReader(path) as walked:
            assert (indexed.has_index, walked.has_index) == (True, False)
            assert walked.sessions == indexed.sessions
            assert list(walked.records()) == records


def test_a_file_of_a_later_version_is_refused(path: Path) -> None:
    write(path, [])
    packed = bytearray(path.read_bytes())
    packed[8] = 2
    with pytest.raises(RecordingError, match="expected format version 1, got 2"):
        unpack_file_header(bytes(packed), "kv.rec")


def test_a_file_that_is_something_else_is_left_as_it_is(path: Path) -> None:
    path.write_bytes(b"precious" * 100)
    with pytest.raises(RecordingError, match="expected a recording"):
        RecordingWriter(path, [SOURCE], append=True)
    assert path.read_bytes() == b"precious" * 100


def test_a_file_that_exists_is_not_written_over(path: Path) -> None:
    write(path, SMALL)
    with pytest.raises(RecordingError, match="expected no such file, or to append"):
        RecordingWriter(path, [SOURCE])
    assert frames_in(path) == SMALL


def test_two_writers_cannot_have_one_file(path: Path) -> None:
    with (
        RecordingWriter(path, [SOURCE]),
        pytest.raises(RecordingError, match="another recorder is writing it"),
    ):
        RecordingWriter(path, [SOURCE], append=True)


def test_a_recording_is_read_while_it_is_written(path: Path) -> None:
    with RecordingWriter(path, [SOURCE]) as writer:
        writer.message(0, (b"flushed",), second(writer, 1))
        writer.flush()
        writer.message(0, (b"waits",), second(writer, 2))
        assert frames_in(path) == [(b"flushed",)]
        with RecordingReader(path) as reader:
            assert not reader.has_index


def test_a_block_that_is_old_enough_is_written(path: Path) -> None:
    with RecordingWriter(path, [SOURCE], chunk_age_s=1000) as young:
        young.message(0, (b"x",), second(young, 1))
        young.flush_if_due()
        assert frames_in(path) == []
    path.unlink()
    with RecordingWriter(path, [SOURCE], chunk_age_s=0) as old:
        old.message(0, (b"x",), second(old, 1))
        old.flush_if_due()
        assert frames_in(path) == [(b"x",)]


def test_a_full_disk_ends_the_recording_and_leaves_it_whole(path: Path) -> None:
    writer = RecordingWriter(path, [SOURCE], chunk_bytes=1000)

    def fill() -> None:
        for number in range(100):
            writer.message(0, (os.urandom(900),), second(writer, number))

    with file_bytes_max(20_000), pytest.raises(RecordingError, match=r"no more can .* up to byte \d+"):
        fill()
    assert path.stat().st_size == writer.file_bytes > 15_000
    with RecordingReader(path) as reader:
        assert (reader.torn_bytes, reader.damaged_blocks) == (0, 0)
        assert len(list(reader.records())) == len(block_ends(path)) > 10
    writer.close()
    with pytest.raises(RecordingError, match="closed"):
        writer.message(0, (b"x",), 0)
    write(path, [(b"again",)], append=True)
    assert frames_in(path)[-1] == (b"again",)


@pytest.mark.parametrize("name", [".", "no/such/folder/kv.rec"])
def test_a_place_that_holds_no_file_is_a_clear_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecordingError, match=r"cannot be (opened|read)"):
        RecordingReader(tmp_path / name)
    with pytest.raises(RecordingError, match="cannot be written"):
        RecordingWriter(tmp_path / name, [SOURCE], append=True)
