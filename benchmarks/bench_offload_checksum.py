"""What do checksums cost: the throughput of chunks of 2 MB to files and back with them, beside none?

Threads that write files, each file's checksum computed before; and threads that read files into a buffer and
copy them out, which computes the checksum too. The peer is the same without: nothing before, memcpy to copy.
Past the page cache where the file system takes that. Every sample compares the bytes. Then the same in
memory alone, a thread by itself.
"""

from __future__ import annotations

import ctypes
import mmap
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from plain_files import PlainFiles, load_plain_files, takes_direct
from results import Result, arguments, show
from timing import Contender, Timing, alternate

from kvatlas.offload._native import copy_crc32c, crc32c, crc32c_ways

CHUNK_BYTES = 2 << 20
THREADS = 8

Memory = NDArray[np.uint8]


def rows_of(n: int) -> Memory:
    """[n, CHUNK_BYTES], on pages of their own."""
    return np.frombuffer(mmap.mmap(-1, n * CHUNK_BYTES), np.uint8).reshape(n, CHUNK_BYTES)


def copy_plainly(to: Memory, from_: Memory) -> None:
    ctypes.memmove(to.ctypes.data, from_.ctypes.data, to.nbytes)


class Chunks:
    """Rows, files of them, and threads with a buffer each."""

    def __init__(self, n: int, folder: Path, files: PlainFiles) -> None:
        self._files = files
        self._rows, self._loaded = rows_of(n), rows_of(n)
        self._rows[:] = np.random.default_rng(7).integers(0, 256, CHUNK_BYTES, np.uint8)
        self._rows[:, 0] = np.arange(n) % 251
        self._paths = [folder / str(at) for at in range(n)]
        self._names = [str(path).encode() for path in self._paths]
        self._buffers = rows_of(THREADS)
        self._pool = ThreadPoolExecutor(THREADS)
        self._sums = [crc32c(row) for row in self._rows]

    def store(self, *, with_sum: bool) -> Contender:
        def one(thread: int) -> None:
            for at in range(thread, len(self._paths), THREADS):
                if with_sum:
                    assert crc32c(self._rows[at]) == self._sums[at]
                place = self._rows.ctypes.data + at * CHUNK_BYTES
                self._files.move(self._names[at], place, CHUNK_BYTES, is_load=False)

        return Contender(self._remove, lambda _: self._by_all(one), 1)

    def load(self, *, with_sum: bool) -> Contender:
        """After store."""

        def one(thread: int) -> None:
            buffer = self._buffers[thread]
            for at in range(thread, len(self._paths), THREADS):
                place = self._buffers.ctypes.data + thread * CHUNK_BYTES
                self._files.move(self._names[at], place, CHUNK_BYTES, is_load=True)
                if with_sum:
                    assert copy_crc32c(self._loaded[at], buffer) == self._sums[at]
                else:
                    copy_plainly(self._loaded[at], buffer)

        return Contender(self._check, lambda _: self._by_all(one), 1)

    def _by_all(self, one: Callable[[int], None]) -> None:
        list(self._pool.map(one, range(THREADS)))

    def _remove(self) -> None:
        for path in self._paths:
            path.unlink(missing_ok=True)

    def _check(self) -> None:
        """What the last sample has loaded, if there was one."""
        assert not self._loaded.any() or np.array_equal(self._loaded, self._rows)
        self._loaded[:] = 0

    def close(self) -> None:
        self._check()
        self._pool.shutdown()
        self._remove()


def through_files(n: int, rounds: int, folder: Path, files: PlainFiles, how: str) -> list[Result]:
    chunks, n_bytes = Chunks(n, folder, files), n * CHUNK_BYTES
    results = []
    for name, make in (("store", chunks.store), ("load", chunks.load)):
        with_sum, without = make(with_sum=True), make(with_sum=False)
        timings = alternate({"ours": with_sum, "peer": without}, rounds=rounds)
        what = f"{name} with checksums, {THREADS} threads, {how} (peer: without)"
        results.append(rate(f"checksum/{name}", what, n_bytes, timings["ours"], timings["peer"]))
    chunks.close()
    return results


def in_memory(rounds: int) -> list[Result]:
    """Far more rows than caches hold."""
    rows, to = rows_of(64), rows_of(64)
    rows[:] = np.random.default_rng(7).integers(0, 256, CHUNK_BYTES, np.uint8)
    to[:] = 1

    def summed(_: object) -> None:
        for row in rows:
            crc32c(row)

    def copied(_: object) -> None:
        for at in range(len(rows)):
            copy_crc32c(to[at], rows[at])

    def plain(_: object) -> None:
        for at in range(len(rows)):
            copy_plainly(to[at], rows[at])

    calls = {"sum": summed, "copy": copied, "plain": plain}
    timings = alternate({name: Contender(lambda: None, run, 1) for name, run in calls.items()}, rounds=rounds)
    way = crc32c_ways()[-1]
    return [
        rate("checksum/crc32c", f"CRC-32C of memory ({way})", rows.nbytes, timings["sum"]),
        rate(
            "checksum/copied",
            "copy with CRC-32C (peer: memcpy)",
            rows.nbytes,
            timings["copy"],
            timings["plain"],
        ),
    ]


def rate(row: str, what: str, n_bytes: int, ours: Timing, peer: Timing | None = None) -> Result:
    return Result(
        row=row,
        what=what,
        unit="GB/s",
        median=n_bytes / ours.median / 1e9,
        best=n_bytes / ours.best / 1e9,
        peer_median=peer and n_bytes / peer.median / 1e9,
        peer_best=peer and n_bytes / peer.best / 1e9,
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--folder", type=Path, default=Path(), help="on the disk to measure; default: here")
    given = parser.parse_args()
    rounds, n = (3, 32) if given.quick else (21, 128)
    results = []
    with tempfile.TemporaryDirectory(prefix="bench-checksum-", dir=given.folder) as folder:
        direct = takes_direct(Path(folder))
        files = load_plain_files(direct=direct)
        if files is not None:
            how = "past the page cache" if direct else "through the page cache"
            results += through_files(n, rounds, Path(folder), files, how)
    show(results + in_memory(rounds), given.json)


if __name__ == "__main__":
    main()
