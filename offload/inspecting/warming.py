"""Warming a store: its most recently used files are read into this host's page cache."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec

from kvatlas.offload._native import chunk_name
from kvatlas.offload.evicting.candidates import Candidate, Candidates
from kvatlas.offload.evicting.crawler import crawl

_PIECE_BYTES = 4 << 20


class Warmed(msgspec.Struct, frozen=True, kw_only=True):
    """What was read."""

    files: int
    bytes: int
    cached_files: int | None
    """Of them, those whose beginning lies in the page cache now; None: this system does not say."""
    left_out_bytes: int
    """Of the store, beyond the budget."""


def memory_budget() -> int:
    """Half of what this host has available, in bytes. Raises OSError."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024 // 2
    raise OSError("/proc/meminfo: expected MemAvailable, got none")


def warm(
    root: Path,
    budget_bytes: int,
    *,
    threads: int = 4,
    files_max: int = 1_000_000,
    seen: Callable[[int], None] | None = None,
) -> Warmed:
    """Reads the newest files up to a budget. `seen` hears of the bytes so far. Raises OSError."""
    newest, total = Candidates(files_max, newest=True), 0
    for listing in crawl(root, threads):
        newest.add(listing)
        total += sum(listing.sizes)
    files = n_bytes = cached = 0
    is_told = True
    with ThreadPoolExecutor(threads, "kvatlas-warm") as pool:
        for read_bytes, is_cached in _all_read(pool, _within(newest.in_order(), budget_bytes), 2 * threads):
            files += read_bytes > 0
            n_bytes += read_bytes
            cached += bool(is_cached)
            is_told = is_told and is_cached is not None
            if seen is not None:
                seen(n_bytes)
    return Warmed(
        files=files,
        bytes=n_bytes,
        cached_files=cached if is_told else None,
        left_out_bytes=max(total - n_bytes, 0),
    )


def _all_read(
    pool: ThreadPoolExecutor, paths: Iterator[str], waiting_max: int
) -> Iterator[tuple[int, bool | None]]:
    waiting: deque[Future[tuple[int, bool | None]]] = deque()
    try:
        for path in paths:
            waiting.append(pool.submit(_read, path))
            if len(waiting) >= waiting_max:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _within(newest: Iterator[Candidate], budget_bytes: int) -> Iterator[str]:
    for one in newest:
        budget_bytes -= one.n_bytes
        if budget_bytes < 0:
            return
        yield f"{one.part.path}/{chunk_name(one.key)}"


def _read(path: str) -> tuple[int, bool | None]:
    """Bytes read, and whether the file's beginning is cached then; (0, False) where it is gone."""
    buffer = bytearray(_PIECE_BYTES)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0, False
    try:
        total = 0
        while got := os.readv(descriptor, [buffer]):
            total += got
        return total, _is_cached(descriptor)
    finally:
        os.close(descriptor)


def _is_cached(descriptor: int) -> bool | None:
    try:
        return os.preadv(descriptor, [bytearray(4096)], 0, os.RWF_NOWAIT) > 0
    except BlockingIOError:
        return False
    except (OSError, AttributeError):
        return None
