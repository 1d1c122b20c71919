"""Crawling a store: every file of every space, folder by folder, in bounded memory.

What is neither a chunk file nor litter of ours is counted and left alone. Links are not followed.
"""

from __future__ import annotations

import os
import re
import stat
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from kvatlas.offload._native import chunk_key

BATCH_FILES = 8192
_PART = re.compile(r"all|r\d{1,9}")
_SPACE = re.compile(r".*-[0-9a-f]{16}", re.DOTALL)
_FOLDER = re.compile(r"[0-9a-f]{3}")
_DATE_NS_MAX = (1 << 62) - 1
"""File systems take dates that are further off than 64 bits of nanoseconds can say."""
_AHEAD = 4
"""Folders that are read ahead for each thread."""


class Part(NamedTuple):
    """A folder `<root>/<space>/<part>`."""

    space: str
    part: str
    path: str


class Litter(NamedTuple):
    """A file that no reader uses: temporary, or put aside as bad."""

    path: str
    n_bytes: int
    last_use_ns: int
    is_bad: bool


class Listing(NamedTuple):
    """Files of one hash folder, at most `BATCH_FILES` of them."""

    part: Part
    folder: str
    """Of three hex digits."""
    keys: list[bytes]
    sizes: list[int]
    last_uses_ns: list[int]
    """By the file server's clock."""
    litter: list[Litter]
    foreign: int
    """What is neither."""


def parts_of(root: Path) -> Iterator[Part]:
    """Raises OSError; not for folders that are no spaces, such as lost+found, which few may look into."""
    for space in _folders(str(root)):
        if _SPACE.fullmatch(space.name) and not space.name.startswith("."):
            for part in _folders(space.path):
                if _PART.fullmatch(part.name):
                    yield Part(space.name, part.name, part.path)


def crawl(root: Path, threads: int = 1, parts: list[Part] | None = None) -> Iterator[Listing]:
    """All files below a root, or some parts of it. Raises OSError; what vanishes meanwhile is left out."""
    folders = (
        (part, one.name)
        for part in (parts_of(root) if parts is None else parts)
        for one in _folders(part.path)
    )
    wanted = (one for one in folders if _FOLDER.fullmatch(one[1]))
    if threads == 1:
        for part, folder in wanted:
            yield from _listings(part, folder)
        return
    with ThreadPoolExecutor(threads, "kvatlas-crawl") as pool:
        running: deque[Future[list[Listing]]] = deque()
        for part, folder in wanted:
            running.append(pool.submit(lambda part, folder: list(_listings(part, folder)), part, folder))
            if len(running) >= threads * _AHEAD:
                yield from running.popleft().result()
        while running:
            yield from running.popleft().result()


def _folders(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as listing:
            return sorted(
                (one for one in listing if one.is_dir(follow_symlinks=False)), key=lambda one: one.name
            )
    except FileNotFoundError:
        return []


def _listings(part: Part, folder: str) -> Iterator[Listing]:
    listing = Listing(part, folder, [], [], [], [], 0)
    try:
        with os.scandir(f"{part.path}/{folder}") as entries:
            for entry in entries:
                listing = _add(listing, entry)
                if len(listing.keys) >= BATCH_FILES:
                    yield listing
                    listing = Listing(part, folder, [], [], [], [], 0)
    except FileNotFoundError:
        pass
    yield listing


def _add(listing: Listing, entry: os.DirEntry[str]) -> Listing:
    try:
        found = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return listing
    name = entry.name
    if not stat.S_ISREG(found.st_mode):
        return listing._replace(foreign=listing.foreign + 1)
    is_bad = name.endswith(".bad")
    if is_bad or (name.startswith(".") and name.endswith(".tmp")):
        listing.litter.append(Litter(entry.path, found.st_size, found.st_mtime_ns, is_bad))
        return listing
    key = chunk_key(f"{listing.folder}/{name}")
    if key is None:
        return listing._replace(foreign=listing.foreign + 1)
    listing.keys.append(key)
    listing.sizes.append(found.st_size)
    listing.last_uses_ns.append(max(min(found.st_mtime_ns, _DATE_NS_MAX), -_DATE_NS_MAX))
    return listing
