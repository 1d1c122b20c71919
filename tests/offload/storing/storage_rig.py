"""A storage over a scripted store, its clock and its steps in the test's hands."""

from __future__ import annotations

from typing import Any

import numpy as np

from kvatlas.offload.storing.announcements import Announcement
from kvatlas.offload.storing.settings import StorageSettings
from kvatlas.offload.storing.storage import Done, Storage
from tests.offload.storing.scripted_backend import KEY_BYTES, ROW_BYTES, ScriptedBackend, key_of


class Rig:
    """A storage over a scripted store, and a clock that stands still unless it is moved."""

    def __init__(self, backend: ScriptedBackend | None = None, **options: Any) -> None:
        self.store = backend or ScriptedBackend()
        self.now_s = 100.0
        settings = StorageSettings(root="memory", **{"inventory": False, **options})
        self.storage = Storage(
            self.store, settings, key_bytes=KEY_BYTES, row_bytes=ROW_BYTES, clock=lambda: self.now_s
        )

    def step(self) -> list[Done]:
        """One engine step in which the store answers everything."""
        self.storage.end_step()
        self.store.run()
        return self.storage.finished()

    def lookup(self, *numbers: int) -> list[int]:
        return [self.storage.lookup(key_of(number)) for number in numbers]

    def write(self, *numbers: int) -> Done:
        self.storage.store(7, keys(*numbers), rows(*numbers))
        (done,) = self.step()
        return done

    def read(self, *numbers: int) -> Done:
        self.storage.load(8, keys(*numbers), rows(*numbers))
        (done,) = self.step()
        return done

    def counter(self, name: str) -> float:
        return self.storage.statistics().counters[name]

    def announced(self) -> list[Announcement]:
        return self.storage.take_announcements()


def keys(*numbers: int) -> list[bytes]:
    return [key_of(number) for number in numbers]


def rows(*numbers: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.array(numbers, np.int32)


def stored(*numbers: int) -> Announcement:
    return Announcement(keys(*numbers), False)


def removed(*numbers: int) -> Announcement:
    return Announcement(keys(*numbers), True)
