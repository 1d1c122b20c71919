"""How fast do chunks of 2 MB get into files and back, beside vLLM's own `fs` tier and a plain loop in C?

In one process with vLLM: both tiers are driven as its manager drives them, over the same rows, so many chunks
under way at once; then threads in C that do nothing but open, pwrite or pread, and close. vLLM makes one job
of what a request loads, so a job of all chunks is measured too: a lone long prompt. Files are past the
page cache (O_DIRECT) where the file system takes that; the disk's own cache is not emptied. In turns; each
sample writes new keys, reads them back into other rows, and compares every byte. kvatlas's files carry a
checksum, which is verified.

The tiers' rows are shared memory, as vLLM's are, mostly on pages of 4 KiB; those of the loop in C are on huge
pages if the system gives any. What a direct read costs depends on that; kvatlas reads into its own buffers.
"""

from __future__ import annotations

import importlib
import mmap
import shutil
import statistics
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from plain_files import PlainFiles, load_plain_files, takes_direct
from results import Result, arguments, show
from timing import Timing, quiet
from vllm_python import be_run_by_vllms_python

CHUNK_BYTES = 2 << 20
KEYS_PER_JOB = 4
DEPTHS = (8, 32)
"""Chunks under way at once; the `fs` tier's default is the latter."""
LONE_DEPTH = 32


class Rows:
    """Half of the rows are written to files, the others are read into."""

    def __init__(self, n_chunks: int, *, huge: bool = False) -> None:
        """In shared memory, as vLLM's; or private and on huge pages, which a disk reads into much faster."""
        memory = mmap.mmap(
            -1,
            2 * n_chunks * CHUNK_BYTES,
            flags=mmap.MAP_ANONYMOUS | (mmap.MAP_PRIVATE if huge else mmap.MAP_SHARED),
        )
        if huge:
            memory.madvise(mmap.MADV_HUGEPAGE)
        self.all: NDArray[np.uint8] = np.frombuffer(memory, np.uint8).reshape(2 * n_chunks, CHUNK_BYTES)
        self.n_chunks = n_chunks
        self._written, self._read = self.all[:n_chunks], self.all[n_chunks:]
        self._written[:] = np.random.default_rng(7).integers(0, 256, CHUNK_BYTES, np.uint8)
        self._sample = 0

    def renew(self) -> None:
        """Other bytes than in the last sample, in every page of every row."""
        self._sample += 1
        pages = self._written.reshape(-1, mmap.PAGESIZE)[:, :8].view(np.uint64)[:, 0]
        pages[:] = np.arange(pages.size, dtype=np.uint64) + np.uint64(self._sample << 40)
        self._read[:] = 0

    def check(self, who: str) -> None:
        assert np.array_equal(self._read, self._written), f"{who} has read other bytes than it has written"

    def addresses(self, first: int) -> list[int]:
        return [self.all.ctypes.data + row * CHUNK_BYTES for row in range(first, first + self.n_chunks)]


class Mover(ABC):
    """Moves all rows to new files, and back."""

    rows: Rows

    @abstractmethod
    def begin(self) -> None: ...
    @abstractmethod
    def store(self) -> None: ...
    @abstractmethod
    def load(self) -> None: ...
    @abstractmethod
    def end(self) -> None: ...
    def close(self) -> None:
        return


class TierMover(Mover):
    """Jobs of so many keys, all at once, as the manager has them after a step."""

    def __init__(self, tier: Any, folder: Path, rows: Rows, vllm: Any, keys_per_job: int) -> None:
        self._tier, self._folder, self.rows, self._vllm = tier, folder, rows, vllm
        self._keys_per_job = keys_per_job
        self._job = 0
        self._keys: list[Any] = []

    def begin(self) -> None:
        self._keys = self._vllm.new_keys(self.rows.n_chunks)

    def store(self) -> None:
        self._move(self._tier.submit_store, 0, is_load=False)

    def load(self) -> None:
        self._move(self._tier.submit_load, self.rows.n_chunks, is_load=True)

    def _move(self, submit: Any, first_row: int, *, is_load: bool) -> None:
        jobs = range(0, self.rows.n_chunks, self._keys_per_job)
        for at in jobs:
            self._job += 1
            keys = self._keys[at : at + self._keys_per_job]
            rows = np.arange(first_row + at, first_row + at + len(keys))
            submit(self._vllm.transfer(self._job, keys, rows, is_load=is_load))
        self._tier.drain_jobs()
        ended = list(self._tier.get_finished_jobs())
        assert len(ended) == len(jobs) and all(one.success for one in ended), ended

    def end(self) -> None:
        for kind in ("*.kv", "*.bin"):
            for path in self._folder.rglob(kind):
                path.unlink()

    def close(self) -> None:
        self._tier.shutdown()


class PlainMover(Mover):
    """The loop in C, over files in folders like a tier's: the limit of the disk, given memory to suit it."""

    def __init__(self, files: PlainFiles, folder: Path, rows: Rows, depth: int) -> None:
        self._files, self.rows, self._depth = files, rows, depth
        self._paths = [str(folder / f"{at % 16:x}" / str(at)).encode() for at in range(rows.n_chunks)]
        for at in range(16):
            (folder / f"{at:x}").mkdir()

    def begin(self) -> None:
        return

    def store(self) -> None:
        self._move(0, is_load=False)

    def load(self) -> None:
        self._move(self.rows.n_chunks, is_load=True)

    def _move(self, first_row: int, *, is_load: bool) -> None:
        rows = self.rows.addresses(first_row)
        self._files.move_all(self._paths, rows, CHUNK_BYTES, is_load=is_load, threads=self._depth)

    def end(self) -> None:
        for path in self._paths:
            Path(path.decode()).unlink()


def in_turns(movers: dict[str, Mover], rounds: int) -> dict[str, Timing]:
    """ "<direction> <mover>" -> seconds for all rows; the first round is not counted."""
    samples: dict[str, list[float]] = {}
    with quiet():
        for at in range(rounds + 1):
            for name in list(movers)[:: 1 if at % 2 == 0 else -1]:
                taken = sample(movers[name], name)
                if at:
                    for direction, seconds in taken.items():
                        samples.setdefault(f"{direction} {name}", []).append(seconds)
    return {name: Timing(statistics.median(all_of), min(all_of)) for name, all_of in samples.items()}


def sample(mover: Mover, name: str) -> dict[str, float]:
    mover.rows.renew()
    mover.begin()
    taken = {}
    for direction in ("store", "load"):
        begin = time.perf_counter()
        getattr(mover, direction)()
        taken[direction] = time.perf_counter() - begin
    mover.rows.check(name)
    mover.end()
    return taken


def measured(kind: str, depth: int, rounds: int, rows: Rows, folder: Path, vllm: Any) -> list[Result]:
    """`kind`: "many" jobs of a few chunks, or "one" of all."""
    direct = takes_direct(folder)
    movers = make_movers(depth, rows.n_chunks if kind == "one" else KEYS_PER_JOB, rows, folder, direct, vllm)
    try:
        timings = in_turns(movers, rounds)
    finally:
        for mover in movers.values():
            mover.close()
        for name in ("ours", "fs", "plain"):
            shutil.rmtree(folder / name)
    how = f"{kind} job{'s' if kind == 'many' else ''}, {depth} at once"
    how += "" if direct else ", through the page cache"
    return [
        compared(
            f"files/{direction}/{kind}/{depth}/{peer}",
            f"{direction}, {how} (peer: {said})",
            rows.n_chunks * CHUNK_BYTES,
            timings[f"{direction} ours"],
            timings[f"{direction} {peer}"],
        )
        for direction in ("store", "load")
        for peer, said in (("fs", "vLLM's fs tier"), ("plain", "plain C"))
        if peer in movers
    ]


def make_movers(
    depth: int, keys_per_job: int, rows: Rows, folder: Path, direct: bool, vllm: Any
) -> dict[str, Mover]:
    """Each in a folder of its own."""
    folders = {name: folder / name for name in ("ours", "fs", "plain")}
    for one in folders.values():
        one.mkdir()
    view = memoryview(rows.all)  # type: ignore[arg-type]
    ours = vllm.our_tier(folders["ours"], view, readers=depth, writers=depth, inventory=False)
    theirs = vllm.fs_tier(folders["fs"], view, depth)
    movers: dict[str, Mover] = {
        "ours": TierMover(ours, folders["ours"], rows, vllm, keys_per_job),
        "fs": TierMover(theirs, folders["fs"], rows, vllm, keys_per_job),
    }
    plain = load_plain_files(direct=direct)
    if plain is not None:
        movers["plain"] = PlainMover(plain, folders["plain"], Rows(rows.n_chunks, huge=True), depth)
    return movers


def compared(row: str, what: str, n_bytes: int, ours: Timing, theirs: Timing) -> Result:
    return Result(
        row=row,
        what=what,
        unit="GB/s",
        median=n_bytes / ours.median / 1e9,
        best=n_bytes / ours.best / 1e9,
        peer_median=n_bytes / theirs.median / 1e9,
        peer_best=n_bytes / theirs.best / 1e9,
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--folder", type=Path, default=Path(), help="on the disk to measure; default: here")
    given = parser.parse_args()
    if not be_run_by_vllms_python():
        return
    vllm = importlib.import_module("offloading_vllm")
    rows = Rows(32 if given.quick else 128)
    results = []
    with tempfile.TemporaryDirectory(prefix="bench-offload-", dir=given.folder) as folder:
        for kind, depth in (*(("many", depth) for depth in DEPTHS), ("one", LONE_DEPTH)):
            results += measured(kind, depth, 3 if given.quick else 15, rows, Path(folder), vllm)
    show(results, given.json)


if __name__ == "__main__":
    main()
