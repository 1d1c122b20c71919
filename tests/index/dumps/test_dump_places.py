"""Where dumps are written to: disks that fill up, pipes, links, two at once, one that is killed."""

from __future__ import annotations

import io
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from kvatlas.index.dumps.dump_file import DumpReader, DumpWriter, write_dump
from kvatlas.index.dumps.meta import DumpMeta
from kvatlas.index.errors import DumpError
from kvatlas.index.shards import ShardedIndex
from tests.index.dumps.worlds import added, apply_all

pytestmark = pytest.mark.native
META = DumpMeta(created_s=1.7e9)


def sections() -> list[bytes]:
    index = ShardedIndex(2)
    apply_all(index, [added(lane, segment) for segment in range(40) for lane in range(3)])
    return list(index.export())


def written() -> bytes:
    stream = io.BytesIO()
    write_dump(stream, META, SECTIONS)
    return stream.getvalue()


def read(path: Path) -> list[bytes]:
    with DumpReader(path) as dump:
        return list(dump)


SECTIONS = sections()
WHOLE = written()


class Sipping(io.RawIOBase):
    """Takes seven bytes at a time, as a pipe or an almost full disk may."""

    def __init__(self) -> None:
        self.taken = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self.taken += bytes(content[:7])
        return min(7, len(content))


def test_a_stream_that_takes_little_at_a_time_gets_all() -> None:
    stream = Sipping()
    write_dump(stream, META, SECTIONS)  # type: ignore[arg-type]
    assert bytes(stream.taken) == WHOLE


@pytest.mark.parametrize("room", [0, 11, 300, len(WHOLE) // 2, len(WHOLE) - 1])
def test_a_disk_that_fills_up_is_one_error_and_the_older_dump_stays(tmp_path: Path, room: int) -> None:
    write_dump(tmp_path / "d", META, SECTIONS[:1])
    before = (tmp_path / "d").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(DumpError, match="expected to write a dump"):
            write_dump(tmp_path / "d", META, SECTIONS)
        with open(tmp_path / "raw", "wb", buffering=0) as raw, pytest.raises(DumpError):
            write_dump(raw, META, SECTIONS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(os.listdir(tmp_path)) == ["d", "raw"]
    assert (tmp_path / "d").read_bytes() == before


def test_a_pipe_and_a_device_are_written_to_and_stay_what_they_are(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    got: list[bytes] = []
    reading = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reading.start()
    write_dump(tmp_path / "pipe", META, SECTIONS)
    reading.join()
    assert got == [WHOLE]
    (tmp_path / "null").symlink_to("/dev/null")
    write_dump(tmp_path / "null", META, SECTIONS)
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "null").is_char_device()


def test_what_a_link_names_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "latest").symlink_to("real/d")
    for _ in range(2):  # where nothing is yet, and where something is
        write_dump(tmp_path / "latest", META, SECTIONS)
        assert (tmp_path / "latest").is_symlink()
        assert read(tmp_path / "real" / "d") == SECTIONS
    (tmp_path / "loop").symlink_to("loop")
    for place in (tmp_path, tmp_path / "loop" / "d"):
        with pytest.raises(DumpError):
            write_dump(place, META, SECTIONS)


def test_a_name_of_the_longest_kind_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 127)
    write_dump(path, META, SECTIONS)
    assert os.listdir(tmp_path) == [path.name]


def test_two_dumps_into_one_path_leave_one_that_is_whole(tmp_path: Path) -> None:
    with DumpWriter(tmp_path / "d", META) as first, DumpWriter(tmp_path / "d", META) as second:
        for writer, content in ((first, SECTIONS), (second, SECTIONS[:1])):
            for section in content:
                writer.put(section)
    assert read(tmp_path / "d") == SECTIONS, "the one that was finished last"
    assert os.listdir(tmp_path) == ["d"]


KILLED = """
import sys
from kvatlas.index.dumps.dump_file import DumpReader, DumpWriter
meta, sections = (dump := DumpReader(sys.argv[1])).meta, list(dump)
with DumpWriter(sys.argv[1], meta) as writer:
    writer.put(sections[0])
    print("half", flush=True)
    sys.stdin.read()
"""


def test_one_that_is_killed_meanwhile_leaves_the_older_dump_and_a_rest_that_goes(tmp_path: Path) -> None:
    write_dump(tmp_path / "d", META, SECTIONS)
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "d")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert read(tmp_path / "d") == SECTIONS
    [rest] = [name for name in os.listdir(tmp_path) if name != "d"]
    assert rest.startswith(".d.")
    write_dump(tmp_path / "d", META, SECTIONS)
    assert rest in os.listdir(tmp_path), "somebody may be writing it"
    os.utime(tmp_path / rest, (1.0, 1.0))
    write_dump(tmp_path / "d", META, SECTIONS)
    assert os.listdir(tmp_path) == ["d"]
