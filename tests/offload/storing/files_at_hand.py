"""A storage over real files: rows of memory, the fields of a small model, and steps until all is done."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kvatlas.offload.layout.fingerprint import SpaceFields
from kvatlas.offload.storing.known import ASKED
from kvatlas.offload.storing.opening import open_storage
from kvatlas.offload.storing.settings import StorageSettings
from kvatlas.offload.storing.storage import Done, Storage
from tests.offload import space_fields

ROW_BYTES = 16384
N_ROWS = 64


def fields_of(model: str = "acme/tiny", row_bytes: int = ROW_BYTES) -> SpaceFields:
    return space_fields.fields_of(model, row_bytes)


def key_of(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "big")).digest() + bytes(4)


def content_of(number: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, ROW_BYTES, np.uint8)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < deadline_s, "it does not become true"
        time.sleep(0.001)


@dataclasses.dataclass
class Process:
    """What one engine core has of a store. Row n holds, or gets, chunk number n modulo the rows."""

    storage: Storage
    memory: npt.NDArray[np.uint8]

    def store(self, *numbers: int) -> Done:
        rows = np.array([number % N_ROWS for number in numbers], np.int32)
        for number, row in zip(numbers, rows, strict=True):
            self.memory[row] = content_of(number)
        self.storage.store(1, [key_of(number) for number in numbers], rows)
        return self._end()

    def load(self, *numbers: int) -> Done:
        rows = np.array([number % N_ROWS for number in numbers], np.int32)
        self.memory[rows] = 0
        self.storage.load(2, [key_of(number) for number in numbers], rows)
        return self._end()

    def lookup(self, *numbers: int) -> list[int]:
        """The answers, when all are there."""
        states: list[int] = []

        def ask() -> bool:
            states[:] = [self.storage.lookup(key_of(number)) for number in numbers]
            self.storage.end_step()
            return ASKED not in states

        wait_for(ask)
        return states

    def holds(self, *numbers: int) -> bool:
        """Whether the rows have exactly these chunks' bytes."""
        return all((self.memory[number % N_ROWS] == content_of(number)).all() for number in numbers)

    def until(self, condition: Callable[[], bool]) -> None:
        """Steps on until it is so."""

        def one_step() -> bool:
            self.storage.end_step()
            return condition()

        wait_for(one_step)

    def _end(self) -> Done:
        ended: list[Done] = []

        def one_step() -> bool:
            self.storage.end_step()
            ended.extend(self.storage.finished())
            return bool(ended)

        wait_for(one_step)
        (done,) = ended
        return done


def page_aligned(n_rows: int = N_ROWS, row_bytes: int = ROW_BYTES) -> npt.NDArray[np.uint8]:
    raw = np.zeros(n_rows * row_bytes + 4096, np.uint8)
    start = -raw.ctypes.data % 4096
    return raw[start : start + n_rows * row_bytes].reshape(n_rows, row_bytes)


def open_process(root: Path, fields: SpaceFields | None = None, **options: Any) -> Process:
    """Opens the store, and waits until it may be written to."""
    memory = page_aligned()
    settings = StorageSettings(root=str(root), **{"free_bytes_min": 0, **options})
    return Process(open_storage(settings, fields or fields_of(), memory), memory)


def names(keys: Sequence[bytes], *numbers: int) -> bool:
    """Whether these are the keys of exactly those chunks, in any order."""
    return sorted(keys) == sorted(key_of(number) for number in numbers)
