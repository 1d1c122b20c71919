"""A survey of a store: what lies in it, how old, whose, and what its control folder says."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from kvatlas.index.errors import StoreError
from kvatlas.offload.capacity.control import ControlFolder, read_small
from kvatlas.offload.capacity.lease import LeaseHolder, holder_of
from kvatlas.offload.capacity.ledger import CrawledUsage, Ledger, LedgerEntry, sums_of
from kvatlas.offload.capacity.pins import read_pins
from kvatlas.offload.capacity.store_clock import StoreClock
from kvatlas.offload.evicting.crawler import Listing, Part, crawl
from kvatlas.offload.layout.space import STORE_FILE, read_identity, read_space

AGES_S = (60.0, 3600.0, 86_400.0, 7 * 86_400.0)
"""A survey counts bytes by when they were last used: within these, and longer ago."""


class PartSurvey(msgspec.Struct, kw_only=True):
    """One part of one space."""

    space: str
    part: str
    model: str
    """By config.json; empty where there is none that can be read: `fault` says why."""
    fault: str
    files: int = 0
    bytes: int = 0
    bytes_by_age: list[int] = msgspec.field(default_factory=lambda: [0] * (len(AGES_S) + 1))
    oldest_s: float = 0.0
    newest_s: float = 0.0
    temporary_files: int = 0
    bad_files: int = 0
    """Put aside, because a load found them corrupt."""
    litter_bytes: int = 0
    foreign: int = 0


class StoreSurvey(msgspec.Struct, frozen=True, kw_only=True):
    """A whole store."""

    root: str
    store: str
    """By store.json."""
    parts: list[PartSurvey]
    files: int
    bytes: int
    trash_files: int
    free_bytes: int
    """Of the file system."""
    disk_bytes: int
    used_bytes_by_ledger: int | None
    """None: nobody has crawled yet."""
    claimed_bytes: int
    writers: list[LedgerEntry]
    broken_entries: int
    crawled: CrawledUsage | None
    evictor: LeaseHolder | None
    evictor_silent_s: float
    pinned_keys: int
    pinned_spaces: list[str]
    faults: list[str]
    is_by_host_clock: bool
    took_s: float


def survey(root: Path, *, threads: int = 4, seen: Callable[[int], None] | None = None) -> StoreSurvey:
    """Crawls all of a store. `seen` hears of the number of files so far. Raises StoreError, OSError."""
    began_s, control, clock = time.monotonic(), ControlFolder(root), StoreClock()
    control.check()
    with contextlib.suppress(OSError):  # read-only: by this host's clock
        clock.measure(control.folder)
    parts: dict[Part, PartSurvey] = {}
    n_files = 0
    for listing in crawl(root, threads):
        if listing.part not in parts:
            parts[listing.part] = _begun(listing.part)
        _add(parts[listing.part], listing, clock.now_ns())
        n_files += len(listing.keys)
        if seen is not None:
            seen(n_files)
    faults = sorted({one.fault for one in parts.values() if one.fault})
    return _whole(control, clock, list(parts.values()), faults, began_s)


def _begun(part: Part) -> PartSurvey:
    model = fault = ""
    try:
        model = read_space(Path(part.path).parent).model
    except StoreError as error:
        fault = str(error)
    return PartSurvey(space=part.space, part=part.part, model=model, fault=fault)


def _add(one: PartSurvey, listing: Listing, now_ns: int) -> None:
    ages = [(now_ns - last_ns) / 1e9 for last_ns in listing.last_uses_ns]
    if ages:
        one.newest_s = min(min(ages), one.newest_s) if one.files else min(ages)
        one.oldest_s = max(max(ages), one.oldest_s)
    for age, size in zip(ages, listing.sizes, strict=True):
        one.bytes_by_age[sum(age > limit for limit in AGES_S)] += size
    one.files += len(listing.keys)
    one.bytes += sum(listing.sizes)
    one.bad_files += sum(litter.is_bad for litter in listing.litter)
    one.temporary_files += sum(not litter.is_bad for litter in listing.litter)
    one.litter_bytes += sum(litter.n_bytes for litter in listing.litter)
    one.foreign += listing.foreign


def _whole(
    control: ControlFolder, clock: StoreClock, parts: list[PartSurvey], faults: list[str], began_s: float
) -> StoreSurvey:
    ledger, pins, disk = Ledger(control), None, os.statvfs(control.root)
    entries = []
    with contextlib.suppress(FileNotFoundError):
        entries = [known.entry for known in ledger.entries().values()]
    try:
        pins = read_pins(control)
    except StoreError as error:
        faults.append(str(error))
    crawled = ledger.usage()
    sums = sums_of(crawled, entries)
    return StoreSurvey(
        root=str(control.root),
        store=_name(control, faults),
        parts=sorted(parts, key=lambda one: (one.space, one.part)),
        files=sum(one.files for one in parts),
        bytes=sum(one.bytes for one in parts),
        trash_files=sum(len(names) for _, _, names in os.walk(control.trash)),
        free_bytes=disk.f_bavail * disk.f_frsize,
        disk_bytes=disk.f_blocks * disk.f_frsize,
        used_bytes_by_ledger=sums.used_bytes if sums.is_known else None,
        claimed_bytes=max(sums.claimed_bytes - sums.used_bytes, 0),
        writers=entries,
        broken_entries=ledger.broken,
        crawled=crawled,
        evictor=holder_of(control),
        evictor_silent_s=_silence_s(control, clock),
        pinned_keys=0 if pins is None else pins.n_keys,
        pinned_spaces=[] if pins is None else pins.spaces,
        faults=faults,
        is_by_host_clock=not clock.is_set,
        took_s=round(time.monotonic() - began_s, 3),
    )


def _name(control: ControlFolder, faults: list[str]) -> str:
    path = control.root / STORE_FILE
    try:
        return read_identity(path, read_small(path)).name
    except (OSError, StoreError) as error:
        faults.append(str(error))
        return ""


def _silence_s(control: ControlFolder, clock: StoreClock) -> float:
    try:
        return max((clock.now_ns() - os.stat(control.lease).st_mtime_ns) / 1e9, 0.0)
    except FileNotFoundError:
        return 0.0
