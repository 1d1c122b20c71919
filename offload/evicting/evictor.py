"""One store's evictor: crawls, keeps the ledger's total, and deletes what was not used for longest.

    step: take or renew the lease -> too much there, or a crawl due? -> crawl -> delete to the low threshold

The same class works in a process that also writes (capacity/capacity.py), and in the service (service.py).
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from kvatlas.offload.capacity.control import ControlFolder
from kvatlas.offload.capacity.lease import EvictorLease, LeaseHolder
from kvatlas.offload.capacity.ledger import CrawledUsage, KnownEntry, Ledger, sums_of
from kvatlas.offload.capacity.limits import CapacityLimits
from kvatlas.offload.capacity.room import Room, room_of
from kvatlas.offload.capacity.store_clock import StoreClock
from kvatlas.offload.evicting.candidates import Candidate, Candidates
from kvatlas.offload.evicting.cleaner import Cleaner
from kvatlas.offload.evicting.crawler import Listing, crawl, parts_of
from kvatlas.offload.evicting.deleter import Deleter, OnRemoved

_BATCH = 128
_TRASH_S = 60.0
_TELL_S = 1.0


class EvictorStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What an evictor has seen and done since it was made."""

    is_evicting: bool
    """It holds the store's lease."""
    size_bytes: int
    """What the store may hold now; 0: not known yet."""
    used_bytes: int
    free_bytes: int
    """Of the file system."""
    files: int
    """At the last crawl."""
    oldest_s: float
    """Since the last use of the file that goes next; 0: no crawl yet."""
    crawl_s: float
    """What the last crawl took."""
    evicted_bytes: int
    counts: dict[str, int]
    """deleted, touched, pinned, gone, put_back, leased, litter, folders, crawls, evictions, takeovers, stuck,
    foreign."""


class Evictor:
    """Holds one store to its limits, as long as it has the lease. One thread calls `step`; the rest is any's.

    `step` and `close` raise StoreError and OSError; the evictor can go on after either.
    """

    def __init__(
        self,
        root: Path,
        limits: CapacityLimits,
        on_removed: OnRemoved,
        *,
        threads: int = 1,
        candidates_max: int = 131_072,
    ) -> None:
        self.control = ControlFolder(root)
        self.clock = StoreClock()
        self.limits = limits
        self._threads = threads
        self._candidates_max = candidates_max
        self._token = secrets.token_hex(6)
        holder = LeaseHolder(token=self._token, host=socket.gethostname(), process=os.getpid())
        self._lease = EvictorLease(self.control, self.clock, holder, limits.evictor_dead_s)
        self._ledger = Ledger(self.control)
        self._deleter = Deleter(self.control, on_removed, threads)
        self._cleaner = Cleaner(self.control, limits)
        self._stop = threading.Event()
        self._is_prepared = False
        self._oldest: Iterator[Candidate] = iter(())
        self._next_one: Candidate | None = None
        self._left_out = 0
        self._crawl_again_s = self._trash_again_s = 0.0
        self._oldest_ns = 0
        self._room: Room | None = None
        self._free_bytes = self._evicted_bytes = 0
        self._usage: CrawledUsage | None = None
        self._told_s = 0.0
        self._counts: Counter[str] = Counter()
        self.progress_s = time.monotonic()
        """When it last got on, by the monotonic clock."""

    def step(self) -> bool:
        """Does what is to be done now; whether this is the evictor of the store."""
        self.progress_s = time.monotonic()
        if not self._is_prepared:
            self.control.prepare()
            self._is_prepared = True
        self.control.check()
        if not self._lease.is_held:  # another may have evicted since
            self._usage, self._oldest, self._next_one, self._left_out = None, iter(()), None, 0
        if not self._lease.take():
            return False
        self._empty_trash()
        room = self._look()
        if self._is_crawl_due():
            self._crawl()
            room = self._look()
        if room.is_short:
            self._evict()
        return True

    def stop(self) -> None:
        """`step` comes back soon, wherever it is."""
        self._stop.set()

    def close(self) -> None:
        """Gives the lease back."""
        self.stop()
        self._deleter.close()
        self._lease.release()

    def statistics(self) -> EvictorStatistics:
        counts = {"takeovers": self._lease.taken_over}
        for one in (self._counts, self._deleter.counts, self._cleaner.counts):
            counts |= dict.copy(one)  # at once: the evictor's thread goes on counting
        usage, room = self._usage, self._room
        return EvictorStatistics(
            is_evicting=self._lease.is_held,
            size_bytes=0 if room is None else room.size_bytes,
            used_bytes=0 if room is None else room.used_bytes,
            free_bytes=self._free_bytes,
            files=0 if usage is None else usage.total_files,
            oldest_s=max(self.clock.now_ns() - self._oldest_ns, 0) / 1e9 if self._oldest_ns else 0.0,
            crawl_s=0.0 if usage is None else usage.crawl_s,
            evicted_bytes=self._evicted_bytes,
            counts=counts,
        )

    def _look(self) -> Room:
        if self._usage is None:
            self._usage = self._ledger.usage()
        entries = [known.entry for known in self._ledger.entries().values()]
        self._free_bytes = self.control.free_bytes()
        self._room = room_of(self.limits, sums_of(self._usage, entries), self._free_bytes)
        return self._room

    def _is_crawl_due(self) -> bool:
        if self._usage is None or self._ledger.broken:
            return True
        # A clock that was ahead for a while must not keep the next one off.
        return abs(self.clock.now_ns() - self._usage.crawled_unix_ns) > self.limits.crawl_s * 1e9

    # Crawling.

    def _crawl(self) -> None:
        """Counts all files, finds the oldest, cleans up, and makes the ledger begin from what was found."""
        began_s, began_ns = time.monotonic(), self.clock.now_ns()
        before = self._ledger.entries()
        candidates = Candidates(self._candidates_max)
        total_bytes = total_files = 0
        for listing in crawl(self.control.root, self._threads):
            if not self._goes_on():
                return
            total_bytes += sum(listing.sizes) + sum(one.n_bytes for one in listing.litter)
            total_files += len(listing.keys)
            total_bytes -= self._tidy(listing)
            self._counts["foreign"] += listing.foreign
            candidates.add(listing)
        self._usage = CrawledUsage(
            total_bytes=total_bytes,
            total_files=total_files,
            counted={name: known.entry.written_bytes for name, known in before.items()},
            crawled_unix_ns=began_ns,
            crawl_s=round(time.monotonic() - began_s, 3),
            evictor=self._token,
        )
        self.clock.set(self._ledger.write_usage(self._usage))
        self._counts["crawls"] += 1
        self._take(candidates)
        self._end_dead(before)
        self._clean()

    def _tidy(self, listing: Listing) -> int:
        now_ns = self.clock.now_ns()
        if not (listing.keys or listing.litter or listing.foreign):
            self._cleaner.remove_folder(listing.part, listing.folder, now_ns)
        return self._cleaner.remove_litter(listing.litter, now_ns)

    def _take(self, candidates: Candidates) -> None:
        self._oldest = candidates.in_order()
        self._next_one = next(self._oldest, None)
        self._oldest_ns = 0 if self._next_one is None else self._next_one.last_use_ns
        self._left_out = candidates.left_out

    def _end_dead(self, before: dict[str, KnownEntry]) -> None:
        """Entries of dead writers: the crawl has counted what they wrote."""
        now_ns = self.clock.now_ns()
        for name, known in self._ledger.entries().items():
            is_silent = now_ns - known.written_ns > self.limits.dead_s * 1e9
            if is_silent and name in before and before[name].mark == known.mark:
                self._ledger.remove(name)

    def _clean(self) -> None:
        now_ns = self.clock.now_ns()
        in_use = {known.entry.space for known in self._ledger.entries().values()}
        for part in parts_of(self.control.root):
            if part.space not in in_use:
                self._cleaner.remove_part(part, now_ns)
        self._cleaner.clean_control(now_ns)

    def _empty_trash(self) -> None:
        """What evictors have left that died. Not taken out of the total: the crawl may have missed it."""
        if time.monotonic() >= self._trash_again_s:
            self._trash_again_s = time.monotonic() + _TRASH_S
            lease_ns = int(self.limits.lease_s * 1e9)
            self._deleter.empty_trash(self.clock.now_ns(), int(_TRASH_S * 1e9), lease_ns)

    def _goes_on(self) -> bool:
        self.progress_s = time.monotonic()
        return not self._stop.is_set() and self._lease.renew()

    # Evicting.

    def _evict(self) -> None:
        """Deletes the oldest until the low threshold is reached, or nothing is left that may go."""
        self._counts["evictions"] += 1
        while self._goes_on() and (excess := self._look().excess_bytes) > 0:
            batch = self._next(excess)
            if batch:
                self._account(self._deleter.delete(batch))
            elif not self._may_crawl_again():
                self._counts["stuck"] += 1  # leased, pinned, or not ours: a later step tries again
                break
            else:
                self._crawl()
        self._tell()

    def _may_crawl_again(self) -> bool:
        """Whether a crawl may show more to delete than is known, or less in all.

        A file that was written while the last crawl went on is in its total and in its writer's entry too.
        """
        now_s = time.monotonic()
        has_more = self._left_out and self._next_one is None
        if not has_more and now_s < self._crawl_again_s:
            return False
        took_s = 0.0 if self._usage is None else self._usage.crawl_s
        self._crawl_again_s = now_s + max(self.limits.lease_s / 4, 10 * took_s)
        return True

    def _next(self, excess_bytes: int) -> list[Candidate]:
        """The next oldest, as many as have to go; none that was used within the lease."""
        newest_ns = self.clock.now_ns() - int(self.limits.lease_s * 1e9)
        batch: list[Candidate] = []
        while (one := self._next_one) is not None and excess_bytes > 0 and len(batch) < _BATCH:
            if one.last_use_ns > newest_ns:
                self._counts["leased"] += 1
                break
            self._oldest_ns = one.last_use_ns
            batch.append(one)
            excess_bytes -= one.n_bytes
            self._next_one = next(self._oldest, None)
        return batch

    def _account(self, gone_bytes: int) -> None:
        """Takes what went out of the total; the others hear of it once a second."""
        self._evicted_bytes += gone_bytes
        if self._usage is not None:
            left = max(self._usage.total_bytes - gone_bytes, 0)
            self._usage = msgspec.structs.replace(self._usage, total_bytes=left)
        if time.monotonic() - self._told_s > _TELL_S:
            self._tell()

    def _tell(self) -> None:
        self._told_s = time.monotonic()
        if self._usage is not None and self._lease.is_held:
            self.clock.set(self._ledger.write_usage(self._usage))
