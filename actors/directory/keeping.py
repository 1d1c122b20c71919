"""Values that outlive a process, and numbers that are never issued twice."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import msgspec


class Keeper(Protocol):
    """Values by key that survive the process. One thread at a time."""

    def get(self, key: str) -> bytes | None: ...

    def put(self, key: str, value: bytes) -> None:
        """It is kept when this returns."""

    def clear(self) -> None:
        """Nothing is kept any more."""


class FileKeeper:
    """Values in the files of one folder; each is replaced whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, key: str) -> bytes | None:
        try:
            return (self._folder / key).read_bytes()
        except FileNotFoundError:
            return None

    def put(self, key: str, value: bytes) -> None:
        partial = self._folder / f".{key}.partial"
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(value)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._folder / key)

    def clear(self) -> None:
        for path in self._folder.iterdir():
            path.unlink()


class Counters:
    """Numbers that are never issued twice, also over restarts: it keeps a ceiling, and begins above it."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        kept = keeper.get("counters")
        self._ceilings: dict[str, int] = (
            {} if kept is None else msgspec.msgpack.decode(kept, type=dict[str, int])
        )
        self._next: dict[str, int] = {}

    def issue(self, name: str, step: int = 1) -> int:
        """The next number of this name, from 1. It keeps one of `step`; a restart leaves out as many."""
        number = self._next.get(name, self._ceilings.get(name, 1))
        if number >= self._ceilings.get(name, 1):
            self._ceilings[name] = number + step
            self._keeper.put("counters", msgspec.msgpack.encode(self._ceilings))
        self._next[name] = number + 1
        return number
