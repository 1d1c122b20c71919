"""Who has written how much to a store: a small file a writer, and the total of the last crawl.

    used    = total of the last crawl + what each writer has written since that crawl began
    claimed = the same with what each writer may still write: it claims first, and writes then

A writer tells its claim to all before it looks at the others' claims, and uses it only where the sum fits. So
of two that claim the last room at once each sees the other's claim, and the cap holds. A file that is written
while a crawl goes on may be counted twice until the next crawl; none is left out.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from kvatlas.index.errors import StoreError
from kvatlas.offload.capacity.control import ControlFolder, read_small, write_small

FORMAT = 1
_ENTRY_BYTES_MAX = 4096
_ENTRIES_MAX = 65_536
_SUFFIX = ".json"
_BYTES_MAX = 1 << 62
"""No store has as much: a figure beyond it, or below 0, is none."""


class LedgerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What one writer says of itself. Totals since it began."""

    format: int = FORMAT
    name: str
    """Of the file: one life of one writer."""
    host: str
    process: int
    space: str
    """The space that it writes to."""
    sequence: int
    written_bytes: int
    written_files: int
    claimed_bytes: int
    """At least `written_bytes`: with what it writes now, and may write without asking again."""
    wanted_bytes: int = 0
    """What it was asked to write of late, and found no room for."""


class CrawledUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What a crawl has found, less what was evicted since."""

    format: int = FORMAT
    total_bytes: int
    total_files: int
    counted: dict[str, int]
    """By name of a writer's entry: its `written_bytes` when the crawl began."""
    crawled_unix_ns: int
    """By the store's clock."""
    crawl_s: float
    evictor: str


class LedgerSums(NamedTuple):
    """All that a store's ledger says."""

    is_known: bool
    """False: no crawl has been here yet, so nobody knows what lies there."""
    used_bytes: int
    claimed_bytes: int
    wanted_bytes: int
    """What writers have found no room for."""
    n_writers: int
    crawled_unix_ns: int


class KnownEntry(NamedTuple):
    """An entry as it was read, and which file that was."""

    entry: LedgerEntry
    written_ns: int
    """Its last sign of life, by the store's clock."""
    mark: tuple[int, int, int]


class Ledger:
    """Reads all entries, the unchanged ones from memory. One thread at a time."""

    def __init__(self, control: ControlFolder) -> None:
        self._control = control
        self._known: dict[str, KnownEntry] = {}
        self._usage: tuple[tuple[int, int, int], CrawledUsage] | None = None
        self.broken = 0
        """Files in the last reading that are no entries; a crawl makes up for them."""

    def entries(self) -> dict[str, KnownEntry]:
        """By name. Raises OSError."""
        found: dict[str, KnownEntry] = {}
        self.broken = 0
        with os.scandir(self._control.ledger) as listing:
            for one in listing:
                if one.name.startswith(".") or not one.name.endswith(_SUFFIX) or len(found) >= _ENTRIES_MAX:
                    continue
                with contextlib.suppress(FileNotFoundError):  # ended meanwhile, or replaced
                    name = one.name.removesuffix(_SUFFIX)
                    if one.is_file(follow_symlinks=False):
                        entry = self._entry(name, one.stat(follow_symlinks=False))
                        if entry is not None:
                            found[name] = entry
        self._known = found
        return found

    def usage(self) -> CrawledUsage | None:
        """Of the last crawl; None: there was none, or its file is not one. Raises OSError."""
        try:
            mark = _mark(os.stat(self._control.usage))
            if self._usage is None or self._usage[0] != mark:
                decoded = msgspec.json.decode(read_small(self._control.usage, 1 << 24), type=CrawledUsage)
                is_good = decoded.format == FORMAT and _are_sizes(
                    decoded.total_bytes, *decoded.counted.values()
                )
                self._usage = (mark, decoded) if is_good else None
        except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError, StoreError):
            self._usage = None
        return None if self._usage is None else self._usage[1]

    def sums(self) -> LedgerSums:
        """Raises OSError."""
        return sums_of(self.usage(), [known.entry for known in self.entries().values()])

    def write(self, entry: LedgerEntry) -> int:
        """Replaces a writer's entry; returns when that was, by the store's clock. Raises OSError."""
        path = self._control.ledger / f"{entry.name}{_SUFFIX}"
        return write_small(path, msgspec.json.encode(entry)).st_mtime_ns

    def write_usage(self, usage: CrawledUsage) -> int:
        """Raises OSError."""
        return write_small(self._control.usage, msgspec.json.encode(usage)).st_mtime_ns

    def remove(self, name: str) -> None:
        """An entry whose files a crawl has counted. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._control.ledger / f"{name}{_SUFFIX}")

    def _entry(self, name: str, found: os.stat_result) -> KnownEntry | None:
        mark, before = _mark(found), self._known.get(name)
        if before is not None and before.mark == mark:
            return before
        try:
            content = read_small(self._control.ledger / f"{name}{_SUFFIX}", _ENTRY_BYTES_MAX)
            entry = msgspec.json.decode(content, type=LedgerEntry)
            if (
                entry.format == FORMAT
                and entry.name == name
                and _are_sizes(entry.written_bytes, entry.claimed_bytes, entry.wanted_bytes)
                and entry.written_bytes <= entry.claimed_bytes
            ):
                return KnownEntry(entry, found.st_mtime_ns, mark)
        except (msgspec.MsgspecError, UnicodeDecodeError, StoreError):
            pass
        self.broken += 1
        return None


def sums_of(usage: CrawledUsage | None, entries: Iterable[LedgerEntry]) -> LedgerSums:
    """What a crawl's total and the writers' entries come to."""
    used = claimed = 0 if usage is None else usage.total_bytes
    wanted = n_writers = 0
    for entry in entries:
        counted = 0 if usage is None else usage.counted.get(entry.name, 0)
        used += max(entry.written_bytes - counted, 0)
        claimed += max(entry.claimed_bytes - counted, 0)
        wanted += max(entry.wanted_bytes, 0)
        n_writers += 1
    return LedgerSums(
        is_known=usage is not None,
        used_bytes=used,
        claimed_bytes=claimed,
        wanted_bytes=wanted,
        n_writers=n_writers,
        crawled_unix_ns=0 if usage is None else usage.crawled_unix_ns,
    )


def new_entry(name: str, space: str) -> LedgerEntry:
    """Of a writer that begins."""
    return LedgerEntry(
        name=name,
        host=socket.gethostname()[:255],
        process=os.getpid(),
        space=space,
        sequence=0,
        written_bytes=0,
        written_files=0,
        claimed_bytes=0,
    )


def _are_sizes(*n_bytes: int) -> bool:
    return all(0 <= one <= _BYTES_MAX for one in n_bytes)


def _mark(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_mtime_ns, found.st_size
