"""An engine without a model: workers with real copies, a window, a store on files; steps as an engine makes
them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from kvatlas.offload._native import Copier
from kvatlas.offload.storing.opening import open_storage
from kvatlas.offload.storing.settings import StorageSettings
from kvatlas.offload.storing.storage import Storage
from kvatlas.offload.window.copies import Copied, Copies, blocks_of
from kvatlas.offload.window.settings import WindowSettings
from kvatlas.offload.window.shared_memory import WindowMemory, WindowShape, attach
from kvatlas.offload.window.transfers import StoreBegun
from kvatlas.offload.window.window import HIT, PENDING, RETRY, Window
from tests.offload.storing.files_at_hand import fields_of, key_of, wait_for

N_RANKS = 2
BLOCKS_PER_CHUNK = 2
PAGE_BYTES = 2048
N_LAYERS = 2
CELL_BYTES = PAGE_BYTES * N_LAYERS * BLOCKS_PER_CHUNK
ROW_BYTES = CELL_BYTES * N_RANKS
N_BLOCKS = 64

Numbers = Sequence[int]


def keys_of(numbers: Numbers) -> list[bytes]:
    return [key_of(number) for number in numbers]


def block_content(number: int, rank: int, layer: int) -> npt.NDArray[np.uint8]:
    """What the model has computed for chunk `number`, on one rank, of one layer [blocks, bytes]."""
    seed = (number * N_RANKS + rank) * N_LAYERS + layer
    return np.random.default_rng(seed).integers(0, 256, (BLOCKS_PER_CHUNK, PAGE_BYTES), np.uint8)


class Worker:
    """One rank: its layers' KV tensors, and its copies."""

    def __init__(self, memory: WindowMemory, rank: int) -> None:
        self.rank, self.memory = rank, memory
        self.layers = [np.zeros((N_BLOCKS, PAGE_BYTES), np.uint8) for _ in range(N_LAYERS)]
        places = [
            (layer.ctypes.data, N_BLOCKS, PAGE_BYTES, rank * CELL_BYTES + n * PAGE_BYTES * BLOCKS_PER_CHUNK)
            for n, layer in enumerate(self.layers)
        ]
        self.copier = Copier(
            memory.rows,
            ROW_BYTES,
            device="host",
            blocks_per_chunk=BLOCKS_PER_CHUNK,
            tensors=places,
            groups=[[(n, PAGE_BYTES) for n in range(N_LAYERS)]],
            page_bytes=[PAGE_BYTES] * N_LAYERS,
        )
        self.copies = Copies(self.copier, memory, rank)

    def compute(self, numbers: Numbers) -> None:
        """Puts the chunks' content into the first blocks."""
        for place, number in enumerate(numbers):
            at = place * BLOCKS_PER_CHUNK
            for n, layer in enumerate(self.layers):
                layer[at : at + BLOCKS_PER_CHUNK] = block_content(number, self.rank, n)

    def has(self, numbers: Numbers) -> bool:
        """Whether the first blocks hold the chunks' content."""
        n_blocks = BLOCKS_PER_CHUNK
        return all(
            np.array_equal(
                layer[place * n_blocks : (place + 1) * n_blocks], block_content(number, self.rank, n)
            )
            for place, number in enumerate(numbers)
            for n, layer in enumerate(self.layers)
        )

    def submit(self, job: int, rows: npt.NDArray[np.int32], ticket: int, *, is_load: bool) -> None:
        n_blocks = len(rows) * BLOCKS_PER_CHUNK
        blocks = blocks_of(range(n_blocks), [n_blocks], [0])
        self.copies.submit(job, blocks, rows, is_load=is_load, ticket=ticket)

    def end(self, job: int) -> Copied:
        """Waits for one job, signs it off."""
        self.copies.wait([job])
        (copied,) = self.copies.finished()
        assert copied.job == job
        return copied

    def close(self) -> None:
        assert self.copies.close()
        self.memory.close()


@dataclasses.dataclass
class Rig:
    """One engine; `now_s` is the time for the window, not for the store."""

    window: Window
    storage: Storage
    memory: WindowMemory
    workers: list[Worker]
    now_s: float = 100.0
    jobs: int = 0

    def step(self) -> None:
        """What an engine does in every step: it also tells what there is to tell."""
        self.window.end_step()
        self.storage.take_announcements()

    def look(self, *numbers: int, request: str = "r") -> list[int]:
        return [self.window.lookup(key_of(number), request) for number in numbers]

    def look_until_known(self, *numbers: int, request: str = "r") -> list[int]:
        """The answers of the step in which none is PENDING or RETRY any more."""
        answers: list[int] = []

        def one_step() -> bool:
            answers[:] = self.look(*numbers, request=request)
            if PENDING in answers or RETRY in answers:
                self.step()
                return False
            return True

        wait_for(one_step)
        return answers

    def begin_store(self, *numbers: int) -> StoreBegun:
        """The model computes chunks; their copies to the window begin on all ranks, as job `self.jobs`."""
        begun = self.window.prepare_store(keys_of(numbers))
        assert begun is not None
        self.jobs += 1
        stored = [number for number in numbers if key_of(number) in begun.keys]
        for worker in self.workers:
            worker.compute(stored)
            if stored:
                worker.submit(self.jobs, begun.rows, begun.ticket, is_load=False)
        return begun

    def store(self, *numbers: int) -> StoreBegun:
        begun = self.begin_store(*numbers)
        if begun.keys:
            for worker in self.workers:
                worker.end(self.jobs)
            self.window.complete_store(set(begun.keys))
        return begun

    def store_and_write(self, *numbers: int) -> None:
        """Stores, and waits until the files are there."""
        self.store(*numbers)
        self.until(lambda: self.window.statistics().writing == 0)

    def begin_load(self, *numbers: int, request: str = "r") -> int:
        rows, ticket = self.window.prepare_load(keys_of(numbers), request)
        self.jobs += 1
        for worker in self.workers:
            for layer in worker.layers:
                layer[:] = 0
            worker.submit(self.jobs, rows, ticket, is_load=True)
        return self.jobs

    def load(self, *numbers: int, request: str = "r") -> bool:
        """Loads what was found in this step; whether all ranks have the right bytes then."""
        job = self.begin_load(*numbers, request=request)
        ended = [worker.end(job) for worker in self.workers]
        self.window.complete_load(request)
        return all(copied.is_ok for copied in ended) and all(worker.has(numbers) for worker in self.workers)

    def until(self, condition: Callable[[], bool]) -> None:
        def one_step() -> bool:
            self.step()
            return condition()

        wait_for(one_step)

    def close(self) -> None:
        self.window.close(10.0)
        for worker in self.workers:
            worker.close()


def start(
    root: Path,
    *,
    n_rows: int = 16,
    engine: str = "engine",
    n_workers: int = N_RANKS,
    storage: Any = None,
    **options: Any,
) -> Rig:
    """An engine on the store `root`, with `n_workers` of its ranks up; `root`'s parent has the shared
    memory.
    """
    shape = WindowShape(n_rows, ROW_BYTES, N_RANKS)
    folder = str(root.parent)
    workers = [Worker(attach(folder, engine, shape, rank=rank), rank) for rank in range(n_workers)]
    memory = attach(folder, engine, shape, rank=None)
    fields = msgspec.structs.replace(fields_of(row_bytes=ROW_BYTES), world_size=N_RANKS)
    chosen = StorageSettings(root=str(root), **{"free_bytes_min": 0, "absent_s": 0.05, **(storage or {})})
    store = open_storage(chosen, fields, memory.rows)
    settings = WindowSettings(
        window_bytes=shape.total_bytes, folder=folder, **{"request_share": 1.0, "loads_share": 1.0, **options}
    )
    rig: Rig

    def clock() -> float:
        return rig.now_s if started else 100.0

    started = False
    window = Window(settings, memory, store, key_bytes=fields.key_bytes, n_writing_ranks=N_RANKS, clock=clock)
    rig = Rig(window, store, memory, workers)
    started = True
    return rig


__all__ = ["HIT", "N_RANKS", "ROW_BYTES", "Rig", "Worker", "key_of", "keys_of", "start"]
