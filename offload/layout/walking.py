"""Walks the chunk files of a part, in bounded memory: for an inventory at start."""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from kvatlas.offload._native import chunk_key

_FOLDER = re.compile(r"[0-9a-f]{3}")


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Some of a part's files, all of one folder."""

    keys: bytes
    """[n] packed, each of the walk's key_bytes."""
    sizes: npt.NDArray[np.int64]
    """[n] bytes."""
    last_use_s: npt.NDArray[np.float64]
    """[n] since 1970, by the file server's clock."""


class WalkStatistics(msgspec.Struct, kw_only=True):
    """What a walk has seen so far."""

    files: int = 0
    n_bytes: int = 0
    temporary: int = 0
    """Files that are being written, or were when their writer died."""
    foreign: int = 0
    """Passed over: names that are no chunk's, links, folders, keys of another length or in another folder."""
    unreadable: int = 0
    """Passed over: what could not be looked at. What went meanwhile is not counted."""


class Walk:
    """The files under a part's folder, folder by folder; each iteration walks anew.

    Follows no link and opens no file: one system call a file, microseconds where the file system is near.
    What is added or removed meanwhile may be seen or not; all else is seen once. One thread at a time.
    """

    def __init__(self, part_folder: Path, key_bytes: int, *, batch_files: int = 4096) -> None:
        self._folder = part_folder
        self._key_bytes = key_bytes
        self._batch_files = batch_files
        self._seen = WalkStatistics()

    def __iter__(self) -> Iterator[Batch]:
        self._seen = WalkStatistics()
        for folder in sorted(self._folders()):  # 4096 at most
            files = self._files(folder)
            while batch := list(itertools.islice(files, self._batch_files)):
                keys, sizes, last_uses = zip(*batch, strict=True)
                yield Batch(
                    keys=b"".join(keys),
                    sizes=np.array(sizes, np.int64),
                    last_use_s=np.array(last_uses, np.float64),
                )

    def statistics(self) -> WalkStatistics:
        """Of the latest iteration, a copy."""
        return msgspec.structs.replace(self._seen)

    def _folders(self) -> Iterator[str]:
        for entry in self._entries(self._folder):
            if _FOLDER.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                yield entry.name
            else:
                self._seen.foreign += 1

    def _files(self, folder: str) -> Iterator[tuple[bytes, int, float]]:
        for entry in self._entries(self._folder / folder):
            if entry.name.startswith(".") and entry.name.endswith(".tmp"):
                self._seen.temporary += 1
                continue
            key = chunk_key(f"{folder}/{entry.name}") if entry.name.isascii() else None
            if key is None or len(key) != self._key_bytes:
                self._seen.foreign += 1
                continue
            status = self._status(entry)
            if status is None:
                continue
            self._seen.files += 1
            self._seen.n_bytes += status.st_size
            yield key, status.st_size, status.st_mtime

    def _status(self, entry: os.DirEntry[str]) -> os.stat_result | None:
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError:
            self._seen.unreadable += 1
            return None
        if stat.S_ISREG(status.st_mode):
            return status
        self._seen.foreign += 1
        return None

    def _entries(self, folder: Path) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                yield from entries
        except FileNotFoundError:
            return
        except OSError:
            self._seen.unreadable += 1
