"""Verifying a store: every file is read, its head and checksum are held against its name and its space."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from kvatlas.index.errors import StoreError
from kvatlas.offload._native import chunk_name
from kvatlas.offload.evicting.crawler import Part, crawl
from kvatlas.offload.layout.reading import check_chunk
from kvatlas.offload.layout.space import read_space

_AHEAD = 4
"""Files that wait for each thread."""


class Expected(NamedTuple):
    """What the heads of one part must say; None: nobody knows."""

    fingerprint: bytes | None = None
    row_bytes: int | None = None


class Checked(NamedTuple):
    """One file, or one space's config.json."""

    path: str
    n_bytes: int
    fault: str
    """Empty: the file is as it should be."""
    is_space: bool = False
    key: bytes | None = None
    expected: Expected = Expected()


def verify(root: Path, *, threads: int = 4) -> Iterator[Checked]:
    """Every file of a store, as it is found good or bad; what vanishes meanwhile is left out.

    Files of a space whose config.json cannot be read are held to their own heads. Raises OSError.
    """
    expected: dict[Part, Expected] = {}
    with ThreadPoolExecutor(threads, "kvatlas-verify") as pool:
        waiting: deque[Future[Checked | None]] = deque()
        try:
            for listing in crawl(root):
                if listing.part not in expected:
                    expected[listing.part], fault = _expectation(listing.part)
                    if fault:
                        yield Checked(str(Path(listing.part.path).parent), 0, fault, is_space=True)
                for key, n_bytes in zip(listing.keys, listing.sizes, strict=True):
                    path = f"{listing.part.path}/{chunk_name(key)}"
                    waiting.append(pool.submit(_check, path, key, n_bytes, expected[listing.part]))
                    if len(waiting) >= threads * _AHEAD:
                        yield from _done(waiting.popleft())
            while waiting:
                yield from _done(waiting.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def remove_bad(checked: Checked) -> bool:
    """Deletes a file that was found bad, unless it was written anew; whether it went. Raises OSError."""
    path = Path(checked.path)
    aside = path.with_name(f".{path.name}.{os.getpid():08x}.tmp")
    try:
        os.rename(path, aside)  # who reads it now has it open; nobody finds it from here on
    except FileNotFoundError:
        return False
    try:
        _read(aside, checked.key, checked.expected)
    except (StoreError, FileNotFoundError):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)
        return True
    os.replace(aside, path)
    return False


def _expectation(part: Part) -> tuple[Expected, str]:
    try:
        fields = read_space(Path(part.path).parent)
        return Expected(fields.fingerprint(part.part), fields.row_bytes), ""
    except StoreError as error:
        return Expected(), str(error)


def _check(path: str, key: bytes, n_bytes: int, expected: Expected) -> Checked | None:
    fault = ""
    try:
        _read(Path(path), key, expected)
    except FileNotFoundError:
        return None
    except StoreError as error:
        fault = str(error).removeprefix(f"{path}: ")
    return Checked(path, n_bytes, fault, key=key, expected=expected)


def _read(path: Path, key: bytes | None, expected: Expected) -> None:
    check_chunk(path, key=key, fingerprint=expected.fingerprint, payload_bytes=expected.row_bytes)


def _done(future: Future[Checked | None]) -> Iterator[Checked]:
    checked = future.result()
    if checked is not None:
        yield checked
