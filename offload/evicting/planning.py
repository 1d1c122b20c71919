"""What an evictor would do now, without doing it: for `kvatlas evict --dry-run`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from kvatlas.offload.capacity.control import ControlFolder
from kvatlas.offload.capacity.ledger import LedgerSums
from kvatlas.offload.capacity.limits import CapacityLimits
from kvatlas.offload.capacity.pins import read_pins
from kvatlas.offload.capacity.room import room_of
from kvatlas.offload.capacity.store_clock import StoreClock
from kvatlas.offload.evicting.candidates import Candidate, Candidates
from kvatlas.offload.evicting.crawler import crawl


class EvictionPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What lies in a store, and what would go."""

    used_bytes: int
    files: int
    size_bytes: int
    """What the store may hold."""
    free_bytes: int
    """Of the file system."""
    would_free_bytes: int
    would_delete: list[Candidate]
    """The ones not used for longest first."""
    pinned: int
    """Files that were passed over."""
    missing_bytes: int
    """What would still be too much: leased, pinned, or beyond `candidates_max` files."""
    litter_bytes: int
    is_by_host_clock: bool
    """Ages are by this host's clock: the store takes no file by which to see its own."""
    took_s: float


def plan_eviction(
    root: Path, limits: CapacityLimits, *, threads: int = 1, candidates_max: int = 131_072
) -> EvictionPlan:
    """Crawls a store and looks what would go. Raises StoreError, OSError."""
    began_s = time.monotonic()
    control, clock = ControlFolder(root), StoreClock()
    control.check()
    with contextlib.suppress(OSError):  # read-only, or nobody was there yet: by this host's clock then
        clock.measure(control.folder)
    candidates, files, used, litter = Candidates(candidates_max), 0, 0, 0
    for listing in crawl(root, threads):
        candidates.add(listing)
        files += len(listing.keys)
        used += sum(listing.sizes)
        litter += sum(one.n_bytes for one in listing.litter)
    free = control.free_bytes()
    room = room_of(limits, _sums(used + litter), free)
    chosen, pinned = _choose(
        control, limits, clock, candidates.in_order(), room.excess_bytes if room.is_short else 0
    )
    would_free = sum(one.n_bytes for one in chosen)
    return EvictionPlan(
        used_bytes=used + litter,
        files=files,
        size_bytes=room.size_bytes,
        free_bytes=free,
        would_free_bytes=would_free,
        would_delete=chosen,
        pinned=pinned,
        missing_bytes=max(room.excess_bytes - would_free, 0) if room.is_short else 0,
        litter_bytes=litter,
        is_by_host_clock=not clock.is_set,
        took_s=time.monotonic() - began_s,
    )


def _choose(
    control: ControlFolder,
    limits: CapacityLimits,
    clock: StoreClock,
    oldest: Iterator[Candidate],
    excess_bytes: int,
) -> tuple[list[Candidate], int]:
    pins, newest_ns = read_pins(control), clock.now_ns() - int(limits.lease_s * 1e9)
    chosen, pinned = [], 0
    for one in oldest:
        if excess_bytes <= 0 or one.last_use_ns > newest_ns:
            break
        if pins.is_pinned(one.part.space, one.key):
            pinned += 1
            continue
        chosen.append(one)
        excess_bytes -= one.n_bytes
    return chosen, pinned


def _sums(used_bytes: int) -> LedgerSums:
    return LedgerSums(
        is_known=True,
        used_bytes=used_bytes,
        claimed_bytes=used_bytes,
        wanted_bytes=0,
        n_writers=0,
        crawled_unix_ns=0,
    )
