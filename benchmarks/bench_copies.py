"""How fast do KV blocks move between an engine's tensors and rows of host memory, beside memcpy?

Blocks in random order, eight layers, four blocks a chunk, by the Copier that workers use. The peer is memcpy
of the same blocks, layer after layer, called by as many threads. With a CUDA device, and torch to hold its
memory, the same job between GPU and rows, beside one copy of as many bytes in one piece.
"""

from __future__ import annotations

import contextlib
import importlib
import mmap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from plain_copies import Addresses, PlainCopies, load_plain_loop
from results import Result, arguments, show
from timing import Contender, Timing, alternate

from kvatlas.offload._native import Copier

BLOCKS_PER_CHUNK = 4
LAYERS = 8
PAGES_KIB = (2, 16, 64, 512)
MEMORY_BYTES = 256 << 20
"""Moved by one sample: far more than caches hold."""

Numbers = NDArray[np.int32]


class Layout:
    """Rows for all blocks of tensors of one page size, and one job that moves them all, in random order."""

    def __init__(self, page_bytes: int) -> None:
        self.page_bytes = page_bytes
        self.n_blocks = MEMORY_BYTES // LAYERS // page_bytes
        self.row_bytes = LAYERS * BLOCKS_PER_CHUNK * page_bytes
        self.rows = touched(MEMORY_BYTES, 0)
        random = np.random.default_rng(7)
        self.blocks = random.permutation(self.n_blocks).astype(np.int32)
        self.row_numbers = random.permutation(self.n_blocks // BLOCKS_PER_CHUNK).astype(np.int32)

    @property
    def job(self) -> tuple[Numbers, Numbers, Numbers, Numbers]:
        return self.blocks, np.array([self.n_blocks], np.int32), np.zeros(1, np.int32), self.row_numbers

    def copier(self, tensors: Sequence[int], device: str, n_threads: int = 1) -> Copier:
        page = self.page_bytes
        places = range(0, self.row_bytes, BLOCKS_PER_CHUNK * page)
        return Copier(
            self.rows,
            self.row_bytes,
            device=device,
            host_threads=n_threads,
            blocks_per_chunk=BLOCKS_PER_CHUNK,
            tensors=[(at, self.n_blocks, page, place) for at, place in zip(tensors, places, strict=True)],
            groups=[[(layer, page) for layer in range(LAYERS)]],
        )

    def addresses(self, tensors: Sequence[int]) -> tuple[Addresses, Addresses]:
        """Of every block and of its place in the rows, layer after layer."""
        places = np.arange(self.n_blocks)
        rows = self.row_numbers[places // BLOCKS_PER_CHUNK].astype(np.uint64) * np.uint64(self.row_bytes)
        inside = (places % BLOCKS_PER_CHUNK * self.page_bytes).astype(np.uint64)
        there, here = [], []
        for layer, at in enumerate(tensors):
            there.append(self.blocks.astype(np.uint64) * np.uint64(self.page_bytes) + np.uint64(at))
            place = self.rows.ctypes.data + layer * BLOCKS_PER_CHUNK * self.page_bytes
            here.append(rows + inside + np.uint64(place))
        return np.concatenate(there), np.concatenate(here)


class Moves:
    """A contender: the whole job, submitted and waited for."""

    def __init__(self, copier: Copier, layout: Layout, direction: str) -> None:
        self.copier, self.job = copier, layout.job
        self.submit: Callable[..., None] = getattr(copier, f"submit_{direction}")

    def run(self, _: object) -> None:
        self.submit(1, *self.job)
        self.copier.wait([1])
        [(_, is_ok, n_bytes, _)] = self.copier.finished()
        assert is_ok and n_bytes == MEMORY_BYTES, self.copier.statistics().first_error


def touched(n_bytes: int, seed: int) -> NDArray[np.uint8]:
    """Pages of their own, each of them there, with bytes that differ."""
    memory = np.frombuffer(mmap.mmap(-1, n_bytes), np.uint8)
    memory.view(np.uint64)[:] = np.arange(n_bytes // 8, dtype=np.uint64) * np.uint64(2 * seed + 1)
    return memory


def gigabytes(timing: Timing) -> tuple[float, float]:
    return MEMORY_BYTES / timing.median / 1e9, MEMORY_BYTES / timing.best / 1e9


def compared(row: str, what: str, timings: dict[str, Timing]) -> Result:
    median, best = gigabytes(timings["ours"])
    peer = gigabytes(timings["peer"]) if "peer" in timings else (None, None)
    return Result(
        row=row, what=what, unit="GB/s", median=median, best=best, peer_median=peer[0], peer_best=peer[1]
    )


def check(layout: Layout, tensors: Sequence[NDArray[np.uint8]]) -> None:
    places = layout.rows.reshape(-1, LAYERS, BLOCKS_PER_CHUNK, layout.page_bytes)
    for layer, tensor in enumerate(tensors):
        blocks = tensor.reshape(-1, layout.page_bytes)[layout.blocks[: BLOCKS_PER_CHUNK * 2]]
        assert np.array_equal(places[layout.row_numbers[:2], layer].reshape(-1, layout.page_bytes), blocks)


def on_the_host(page_kib: int, n_threads: int, rounds: int) -> list[Result]:
    layout = Layout(page_kib << 10)
    memory = [touched(MEMORY_BYTES // LAYERS, 1 + layer) for layer in range(LAYERS)]
    tensors = [tensor.ctypes.data for tensor in memory]
    there, here = layout.addresses(tensors)
    copier, loop = layout.copier(tensors, "host", n_threads), load_plain_loop()
    results = []
    for direction, to, from_ in (("store", here, there), ("load", there, here)):
        contenders = {"ours": Contender(lambda: None, Moves(copier, layout, direction).run, 1)}
        if loop is not None:
            peer = PlainCopies(loop, to, from_, layout.page_bytes, n_threads)
            contenders["peer"] = Contender(lambda: None, peer.run, 1)
        timings = alternate(contenders, rounds=rounds)
        check(layout, memory)
        what = f"{direction}, {page_kib} KiB blocks, {n_threads} threads (peer: memcpy)"
        results.append(compared(f"copies/{direction}/{page_kib}k/{n_threads}", what, timings))
    return results


def on_cuda(page_kib: int, rounds: int) -> list[Result]:
    """Nothing, and a line, without a device or torch."""
    torch: Any = None
    with contextlib.suppress(ImportError):
        torch = importlib.import_module("torch")
    if torch is None or not torch.cuda.is_available():
        print("no CUDA device with torch: the host only")
        return []
    layout = Layout(page_kib << 10)
    memory = [
        torch.randint(0, 256, (MEMORY_BYTES // LAYERS,), dtype=torch.uint8, device="cuda:0")
        for _ in range(LAYERS)
    ]
    copier = layout.copier([tensor.data_ptr() for tensor in memory], "cuda:0")
    print(copier.device)
    whole = torch.empty(MEMORY_BYTES, dtype=torch.uint8, device="cuda:0")
    rows = torch.empty(MEMORY_BYTES, dtype=torch.uint8, pin_memory=True)
    results = []
    for direction, to, from_ in (("store", rows, whole), ("load", whole, rows)):

        def in_one_piece(_: Any, to: Any = to, from_: Any = from_) -> None:
            to.copy_(from_, non_blocking=True)
            torch.cuda.synchronize()

        contenders = {
            "ours": Contender(lambda: None, Moves(copier, layout, direction).run, 1),
            "peer": Contender(lambda: None, in_one_piece, 1),
        }
        timings = alternate(contenders, rounds=rounds)
        check(layout, [tensor.cpu().numpy() for tensor in memory])
        what = f"{direction}, {page_kib} KiB blocks, cuda:0 (peer: one copy of all)"
        results.append(compared(f"copies/cuda/{direction}/{page_kib}k", what, timings))
    return results


def main() -> None:
    given = arguments(__doc__).parse_args()
    rounds = 5 if given.quick else 25
    pages = (16, 512) if given.quick else PAGES_KIB
    results = [result for page in pages for n in (1, 2) for result in on_the_host(page, n, rounds)]
    for page in pages:
        of_cuda = on_cuda(page, rounds)
        results += of_cuda
        if not of_cuda:
            break
    show(results, given.json)


if __name__ == "__main__":
    main()
