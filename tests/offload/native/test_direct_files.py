"""DirectFiles writes chunk files that everyone can read, and loads only what its mode can answer for."""

from __future__ import annotations

import ctypes
import errno
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvatlas.index.errors import InputError, StoreError
from kvatlas.offload._native import DirectFiles, chunk_name, crc32c, read_head
from tests.offload.native.copies_rig import CopyRig, Job
from tests.offload.native.fake_gpu import FakeGpu, compile_library

pytestmark = pytest.mark.native

OK, PRESENT, ABSENT, CORRUPT, FAILED, NO_SPACE, READ_ONLY, TIMED_OUT, CANCELLED = range(9)
FINGERPRINT, WRITER = b"f" * 16, b"w" * 16
HEAD_BYTES = 4096


def key_of(number: int) -> bytes:
    return number.to_bytes(32, "big") + bytes(4)


@pytest.fixture(scope="session")
def fake_cufile_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_library("fake_cufile.cpp", tmp_path_factory.mktemp("fake_cufile") / "libcufile.so")


class Store:
    """A folder, a fake GPU with tensors, a fake cuFile, and DirectFiles of any mode over them."""

    def __init__(self, folder: Path, gpu: FakeGpu, library: Path) -> None:
        self.folder, self.gpu, self.library = folder, gpu, library
        self.cufile: Any = ctypes.CDLL(str(library))
        self.cufile.fake_cufile_alive.restype = ctypes.c_long
        self.rig = CopyRig(page_bytes=(4096, 1000), groups=[[(0, 4096), (1, 900)]], blocks_per_chunk=2)
        self.opened: list[DirectFiles] = []
        folder.mkdir()
        for tensor in self.rig.tensors:
            gpu.own(tensor.data)

    def open(self, mode: str, **options: Any) -> DirectFiles:
        rig = self.rig
        arguments: dict[str, Any] = {
            "device": "cuda:0",
            "mode": mode,
            "writer": WRITER,
            "key_bytes": 36,
            "blocks_per_chunk": rig.blocks_per_chunk,
            "tensors": [
                (t.data.ctypes.data, len(t.data), t.data.shape[1], int(at))
                for t, at in zip(rig.tensors, rig.row_offsets, strict=True)
            ],
            "groups": rig.groups,
            "page_bytes": [t.page_bytes for t in rig.tensors],
            "driver": self.gpu.path,
            "library": str(self.library),
            "allow_unverified": mode in ("full", "read_only"),
        }
        files = DirectFiles(str(self.folder), rig.rows.shape[1], FINGERPRINT, **(arguments | options))
        self.opened.append(files)
        return files

    def set(self, name: str, value: int) -> None:
        self.cufile.fake_cufile_set(name.encode(), ctypes.c_long(value))

    def alive(self, name: str) -> int:
        return int(self.cufile.fake_cufile_alive(name.encode()))

    def until_a_call_hangs(self) -> None:
        assert self.cufile.fake_cufile_wait(60), "expected a call of cuFile, got none"

    def file(self, number: int) -> Path:
        return self.folder / chunk_name(key_of(number))

    def close(self) -> None:
        self.set("is_hung", 0)
        for files in self.opened:
            assert files.close(60)
        self.opened.clear()


@pytest.fixture
def store(tmp_path: Path, fake_gpu: Callable[..., FakeGpu], fake_cufile_library: Path) -> Iterator[Store]:
    library = tmp_path / "libcufile.so"
    shutil.copy(fake_cufile_library, library)
    one = Store(tmp_path / "part", fake_gpu(), library)
    one.gpu.set("delay_us_max", 100)
    yield one
    one.close()


def end_of(files: DirectFiles) -> tuple[int, bytes, int, bool, str]:
    """Of the one job that is under way."""
    [(job, outcomes, n_bytes, seconds, is_verified, error)] = files.finished(60)
    assert seconds >= 0
    return job, outcomes, n_bytes, is_verified, error


def arrays(blocks: list[int], index: int = 0) -> tuple[Any, Any, Any]:
    return np.array(blocks, np.int32), np.array([len(blocks)], np.int32), np.array([index], np.int32)


def store_two(files: DirectFiles, job: int = 1) -> tuple[int, bytes, int, bool, str]:
    """Blocks 8 and 9 as chunk 100, 20 and 3 as chunk 101."""
    assert files.submit_store(job, key_of(100) + key_of(101), *arrays([8, 9, 20, 3]))
    return end_of(files)


MODES_THAT_STORE = ("full", "bounce", "write_only")


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES_THAT_STORE)
def test_stored_chunks_are_files_that_verify(store: Store, mode: str) -> None:
    store.set("most_bytes", 1500)  # cuFile may do a part
    store.rig.rows[:] = 0
    expected = store.rig.after_store(Job([[8, 9, 20, 3]], [0], [[0, 1]]))
    assert store_two(store.open(mode)) == (1, bytes([OK, OK]), 4 * 4996, True, "")
    for number, row in ((100, 0), (101, 1)):
        content = store.file(number).read_bytes()
        head = read_head(content[:HEAD_BYTES])
        payload = content[HEAD_BYTES : HEAD_BYTES + head.payload_bytes]
        assert (head.key, head.fingerprint, head.writer) == (key_of(number), FINGERPRINT, WRITER)
        assert head.payload_crc32c == crc32c(payload)
        assert payload == expected[row].tobytes()
        assert not any(content[HEAD_BYTES + head.payload_bytes :]) and len(content) % 4096 == 0
    assert store.alive("files") == 0


@pytest.mark.parametrize("mode", ["full", "bounce", "read_only"])
def test_loads_bring_back_what_was_stored_also_a_part_of_a_chunk(store: Store, mode: str) -> None:
    store_two(store.open("bounce"))
    before = [tensor.data.copy() for tensor in store.rig.tensors]
    for tensor in store.rig.tensors:
        tensor.data[:] = 0
    files = store.open(mode)
    # From the second block of the first chunk on: 9, 20, 3, to other places.
    assert files.submit_load(5, key_of(100) + key_of(101), *arrays([1, 30, 2], index=7))
    assert end_of(files) == (5, bytes([OK, OK]), 3 * 4996, mode == "bounce", "")
    for tensor, was, n_bytes in zip(store.rig.tensors, before, (4096, 900), strict=True):
        assert np.array_equal(tensor.data[[1, 30, 2], :n_bytes], was[[9, 20, 3], :n_bytes])
        assert not tensor.data[0].any() and not tensor.data[3:30].any()
    assert files.statistics().unverified_chunks == (0 if mode == "bounce" else 2)


def test_a_payload_that_is_wrong_never_reaches_a_block_in_bounce(store: Store) -> None:
    files = store.open("bounce")
    store_two(files)
    content = bytearray(store.file(101).read_bytes())
    content[HEAD_BYTES + 5000] ^= 1
    store.file(101).write_bytes(content)
    before = [tensor.data.copy() for tensor in store.rig.tensors]
    assert files.submit_load(2, key_of(101), *arrays([0, 1]))
    job, outcomes, n_bytes, _, error = end_of(files)
    assert (job, outcomes, n_bytes) == (2, bytes([CORRUPT]), 0) and "not what its name says" in error
    assert all(np.array_equal(t.data, was) for t, was in zip(store.rig.tensors, before, strict=True))
    assert not store.file(101).exists() and files.statistics().corrupt_chunks == 1


@pytest.mark.parametrize("mode", ["bounce", "read_only"])
@pytest.mark.parametrize("damage", ["torn", "head", "other key", "no file"])
def test_files_whose_head_or_size_is_wrong_load_nothing(store: Store, mode: str, damage: str) -> None:
    store_two(store.open("bounce"))
    path = store.file(100)
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:-4096])
    elif damage == "head":
        path.write_bytes(b"\0" + path.read_bytes()[1:])
    elif damage == "other key":
        path.write_bytes(store.file(101).read_bytes())
    else:
        path.unlink()
    before = [tensor.data.copy() for tensor in store.rig.tensors]
    files = store.open(mode)
    assert files.submit_load(2, key_of(100), *arrays([0, 1]))
    assert end_of(files)[1] == bytes([ABSENT if damage == "no file" else CORRUPT])
    assert all(np.array_equal(t.data, was) for t, was in zip(store.rig.tensors, before, strict=True))
    assert not path.exists()


@pytest.mark.parametrize("mode", MODES_THAT_STORE)
@pytest.mark.parametrize(
    ("error", "outcome"), [(errno.ENOSPC, NO_SPACE), (errno.EROFS, READ_ONLY), (errno.EIO, FAILED)]
)
def test_a_write_that_fails_leaves_no_file(store: Store, mode: str, error: int, outcome: int) -> None:
    files = store.open(mode)
    store.set("errno", error)
    assert files.submit_store(1, key_of(100), *arrays([8, 9]))
    job, outcomes, n_bytes, _, text = end_of(files)
    assert (job, outcomes, n_bytes) == (1, bytes([outcome]), 0) and text.startswith("cuFileWrite ")
    assert [path for path in store.folder.rglob("*") if path.is_file()] == []
    assert store.alive("files") == 0
    assert store_two(files, 2)[1] == bytes([OK, OK])


def test_a_store_of_what_is_there_finds_it(store: Store) -> None:
    files = store.open("bounce")
    store_two(files)
    assert store_two(files, 2)[1:3] == (bytes([PRESENT, PRESENT]), 0)
    assert files.statistics().present_chunks == 2


def test_a_job_that_cannot_be_ordered_fails_and_is_no_longer_open(store: Store) -> None:
    files = store.open("bounce")
    store.gpu.fail("cuEventRecord")
    assert store_two(files)[1] == bytes([FAILED, FAILED])
    assert (files.statistics().failed_chunks, files.statistics().open_chunks) == (2, 0)


def test_a_file_that_cufile_does_not_take_fails_its_chunk(store: Store) -> None:
    files = store.open("full")
    store.set("refuse_files", 1)
    assert store_two(files)[1] == bytes([FAILED, FAILED])
    store.set("refuse_files", 0)
    assert store_two(files, 2)[1] == bytes([OK, OK])


@pytest.mark.parametrize("direction", ["store", "load"])
def test_a_call_that_hangs_costs_its_job_alone_and_changes_nothing_later(
    store: Store, direction: str
) -> None:
    store_two(store.open("bounce"))
    files = store.open("bounce", time_limit_s=0.5, threads=1)
    before = [tensor.data.copy() for tensor in store.rig.tensors]
    store.set("is_hung", 1)
    if direction == "store":
        assert files.submit_store(2, key_of(7), *arrays([0, 1]))
    else:
        assert files.submit_load(2, key_of(101), *arrays([0, 1]))
    store.until_a_call_hangs()
    assert end_of(files)[1] == bytes([TIMED_OUT])
    assert not files.close(0.01)
    store.set("is_hung", 0)
    assert files.close(60)
    assert all(np.array_equal(t.data, was) for t, was in zip(store.rig.tensors, before, strict=True))
    assert not store.file(7).exists()
    assert not list(store.folder.rglob("*.tmp"))


def test_a_store_and_a_load_wait_for_the_engine_s_stream(store: Store) -> None:
    stream = store.gpu.stream()
    data = store.rig.tensors[0].data
    files = store.open("full")
    store.gpu.write(stream, data, 9, after_us=3000)
    assert files.submit_store(1, key_of(1), *arrays([8, 9]), stream)
    assert end_of(files)[1] == bytes([OK])
    store.gpu.write(stream, data, 0, after_us=3000)
    assert files.submit_load(2, key_of(1), *arrays([4, 5]), stream)
    assert end_of(files)[1] == bytes([OK])
    assert (data[4:6] == 9).all() and not data[6].any()


def test_jobs_beyond_the_bound_are_refused_and_closing_cancels_what_was_not_begun(store: Store) -> None:
    files = store.open("bounce", threads=1, chunks_max=3)
    store.set("is_hung", 1)
    assert files.submit_store(1, key_of(1), *arrays([0, 1]))
    assert files.submit_store(2, key_of(2) + key_of(3), *arrays([2, 3, 4, 5]))
    assert not files.submit_store(3, key_of(4), *arrays([6, 7]))
    assert files.statistics().refused_jobs == 1
    store.until_a_call_hangs()
    assert not files.close(0.01)
    ends = {job: outcomes for job, outcomes, *_ in files.finished()}
    assert ends == {1: bytes([TIMED_OUT]), 2: bytes([CANCELLED, CANCELLED])}
    with pytest.raises(InputError, match="job 4: expected open files, got closed ones"):
        files.submit_store(4, key_of(4), *arrays([6, 7]))


def test_everything_is_given_back(store: Store) -> None:
    for mode in ("bounce", "full"):
        store_two(store.open(mode))
    store.close()
    assert not any(store.gpu.alive().values())
    assert store.alive("files") == 0 and store.alive("buffers") == 0


def test_what_a_mode_does_not_do_is_refused(store: Store) -> None:
    with pytest.raises(InputError, match="mode: expected allow_unverified with loads that nobody can verify"):
        store.open("full", allow_unverified=False)
    with pytest.raises(InputError, match="mode: expected full, bounce, read_only or write_only, got 'fast'"):
        store.open("fast")
    with pytest.raises(InputError, match="device: expected 'cuda:' and a number, got 'host'"):
        store.open("bounce", device="host")
    with pytest.raises(StoreError, match=r"cuFile: expected the library .*absent.so, got: "):
        store.open("bounce", library=str(store.folder / "absent.so"))
    with pytest.raises(InputError, match="job 1: expected what the mode allows, got the other direction"):
        store.open("read_only").submit_store(1, key_of(1), *arrays([0, 1]))
    files = store.open("write_only")
    with pytest.raises(InputError, match="job 1: expected what the mode allows, got the other direction"):
        files.submit_load(1, key_of(1), *arrays([0, 1]))
    with pytest.raises(
        InputError, match="job 1: expected whole chunks to store, got a part of one in group 0"
    ):
        files.submit_store(1, key_of(1), *arrays([0]))
    with pytest.raises(InputError, match="job 1: expected keys of 36 bytes, got 35"):
        files.submit_store(1, key_of(1)[1:], *arrays([0, 1]))
    with pytest.raises(InputError, match="rows: expected 1, one a chunk, got 2"):
        files.submit_store(1, key_of(1) * 2, *arrays([0, 1]))
