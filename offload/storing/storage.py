"""One store as an engine core sees it: what it is asked for, what is written and read, what is told of it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from kvatlas.offload.backends.backend import Backend, Finished, Outcome, Rows
from kvatlas.offload.storing.announcements import Announcement
from kvatlas.offload.storing.announcer import Announcer
from kvatlas.offload.storing.budget import WriteBudget
from kvatlas.offload.storing.figures import Figures, StorageStatistics
from kvatlas.offload.storing.health import Health
from kvatlas.offload.storing.known import Known
from kvatlas.offload.storing.outcomes import keys_with, keys_without
from kvatlas.offload.storing.settings import StorageSettings

_PROBES_PER_STEP_MAX = 2048  # about half a millisecond
_TOUCHES_MAX = 512  # about a tenth


class Done(msgspec.Struct, frozen=True):
    """A store or load has ended; each of its keys is in one of the lists, in the job's order."""

    job: int
    is_load: bool
    ok: Sequence[bytes]
    failed: Sequence[bytes]
    n_bytes: int = 0
    """Moved."""
    seconds: float = 0.0


class _Job(msgspec.Struct, frozen=True):
    """Under way in the backend."""

    kind: Literal["store", "load", "probe"]
    number: int
    """The caller's."""
    keys: Sequence[bytes]
    dropped: Sequence[bytes] = ()
    """Keys of a store that were not admitted."""


class Storage:
    """Decides what a store is asked, believes only what it has answered, and says what has changed.

    One thread: the engine core's. No method waits or calls a file system but `drain` and `close`, which are
    bounded. Invariants: each `store` and `load` ends once in `finished`; a key is announced as stored only
    after it was written or found; after a key has failed to load it is ABSENT for `absent_s`.
    """

    def __init__(
        self,
        backend: Backend,
        settings: StorageSettings,
        *,
        key_bytes: int,
        row_bytes: int,
        announcer: Announcer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes backend and announcer over. With an announcer nothing is left for `take_announcements`."""
        self.settings = settings
        self._backend, self._clock, self._row_bytes = backend, clock, row_bytes
        self._announcer = announcer
        self._figures = Figures()
        self._known = Known(settings, key_bytes, self._figures, backend.inventory)
        self._health = Health(
            settings.name, settings.breaker_failures, settings.breaker_s_min, settings.breaker_s_max
        )
        self._budget = WriteBudget(settings.write_budget_s, clock())
        self._numbers = itertools.count()
        self._jobs: dict[int, _Job] = {}
        self._done: list[Done] = []
        self.lookups = self._known.lookups
        """Answers the engine core's lookups, without a frame of Python's."""

    # --- looking up ---------------------------------------------------------------

    def lookup(self, key: bytes) -> int:
        """PRESENT, ABSENT, or ASKED: a later step has the answer."""
        return self.lookups.look_up(key, self._clock())

    def present_of(self, keys: Sequence[bytes]) -> list[bytes]:
        """Those that are there, as far as is known now; asks for nothing."""
        return self._known.present_of(keys, self._clock())

    def touch(self, keys: Sequence[bytes]) -> None:
        """These are in use: of them, what the store is known to have is evicted later.

        Of a long list the first: without the head of a chain its tail is worth nothing.
        """
        known = self._known.present_of(keys[:_TOUCHES_MAX], self._clock())
        if known:
            self._backend.touched(known)

    def end_step(self) -> None:
        """Asks for all keys that were looked up since the last step at once, and takes in what has ended."""
        now_s = self._clock()
        if self._health.is_down:
            self._try_again(now_s)
        asked = self._known.take_asked(_PROBES_PER_STEP_MAX)
        if asked and (self._health.is_down or not self._probe(asked)):
            self._known.unavailable(asked, now_s)
        self._collect(now_s)

    def _try_again(self, now_s: float) -> None:
        """A store that is down is tried by one key that somebody would have liked to have."""
        key, breaker = self.lookups.trial_key, self._health.whole
        if key is not None and breaker.admits(now_s) and self._probe([key]):
            breaker.tried(now_s)
            self.lookups.trial_key = None

    def _probe(self, keys: Sequence[bytes]) -> bool:
        number = next(self._numbers)
        if not self._backend.submit_probe(number, keys):
            self._figures.dropped_queue += len(keys)
            return False
        self._jobs[number] = _Job("probe", number, keys)
        self._figures.probes += len(keys)
        return True

    # --- moving ---------------------------------------------------------------

    def store(self, job: int, keys: Sequence[bytes], rows: Rows) -> None:
        """Has rows written under their keys: from the first on, as many as budget, cap and store admit."""
        now_s = self._clock()
        admitted = self._admit(keys, now_s)
        if admitted:
            number = next(self._numbers)
            if self._backend.submit_store(number, keys[:admitted], rows[:admitted]):
                self._health.writes.tried(now_s)
                self._jobs[number] = _Job("store", job, keys[:admitted], keys[admitted:])
                return
            self._budget.withdraw(admitted * self._row_bytes)
            self._figures.dropped_queue += admitted
        self._done.append(Done(job, False, (), keys))

    def _admit(self, keys: Sequence[bytes], now_s: float) -> int:
        """How many of the keys may be written; counts why the others may not."""
        figures, writes = self._figures, self._health.writes
        if not self._known.are_own(keys):
            figures.foreign_keys += len(keys)
            return 0
        if keys and (self._health.is_down or not writes.admits(now_s)):
            self.lookups.trial_key = keys[0]
            figures.dropped_down += len(keys)
            return 0
        wanted = len(keys) if writes.is_closed else min(len(keys), 1)
        figures.dropped_down += len(keys) - wanted
        admitted = self._budget.admit(self._row_bytes, wanted, now_s)
        figures.dropped_budget += wanted - admitted
        if admitted and not self._backend.may_store(admitted):
            self._budget.withdraw(admitted * self._row_bytes)
            figures.dropped_capacity += admitted
            return 0
        return admitted

    def load(self, job: int, keys: Sequence[bytes], rows: Rows) -> None:
        """Has what the keys name read, verified, copied into the rows. What fails is ABSENT for a while."""
        if not self._health.is_down and self._known.are_own(keys):
            number = next(self._numbers)
            if self._backend.submit_load(number, keys, rows):
                self._jobs[number] = _Job("load", job, keys)
                return
            self._figures.dropped_queue += len(keys)
            self._known.unavailable(keys, self._clock())
        self._figures.failed_loads += len(keys)
        self._done.append(Done(job, True, (), keys))

    # --- taking in ---------------------------------------------------------------

    def finished(self) -> list[Done]:
        """The stores and loads that have ended since the last call."""
        self._collect(self._clock())
        done, self._done = self._done, []
        return done

    def take_announcements(self) -> list[Announcement]:
        """What the store has got and lost since the last call, in the order in which it happened."""
        return self._known.announcements.take()

    @property
    def is_moving(self) -> bool:
        """Whether a job is under way."""
        return bool(self._jobs)

    @property
    def is_busy(self) -> bool:
        """Whether a later step will have something to take in or to tell."""
        return bool(self._jobs) or self._known.is_busy

    def _collect(self, now_s: float) -> None:
        for ended in self._backend.finished():
            self._end(ended, now_s)
        announcer = self._announcer
        removed = (announcer or self._backend).take_removed()
        if removed:
            self._figures.removed += len(removed)
            self._known.gone(removed, now_s, is_told=announcer is not None)
        self._known.take_inventory(now_s)
        if announcer is not None and self._known.announcements:
            announcer.tell(self._known.announcements.take())

    def _end(self, ended: Finished, now_s: float) -> None:
        job = self._jobs.pop(ended.job)
        self._figures.count(ended.outcomes)
        self._health.judge(ended, now_s, is_store=job.kind == "store")
        self.lookups.is_down = self._health.is_down
        if job.kind == "store":
            self._end_store(job, ended, now_s)
        elif job.kind == "load":
            self._end_load(job, ended, now_s)
        else:
            self._known.answered(job.keys, ended.outcomes, now_s)

    def _end_store(self, job: _Job, ended: Finished, now_s: float) -> None:
        n_written = ended.outcomes.count(Outcome.OK)
        ok = keys_with(job.keys, ended.outcomes, Outcome.OK, Outcome.PRESENT)
        failed = keys_without(job.keys, ended.outcomes, Outcome.OK, Outcome.PRESENT)
        self._budget.finished(len(job.keys) * self._row_bytes, n_written * self._row_bytes, now_s)
        self._figures.stored += n_written
        self._figures.stored_bytes += ended.n_bytes
        self._figures.store_s += ended.seconds
        self._figures.failed_stores += len(failed)
        self._known.stored(ok, now_s)
        self._done.append(Done(job.number, False, ok, [*failed, *job.dropped], ended.n_bytes, ended.seconds))

    def _end_load(self, job: _Job, ended: Finished, now_s: float) -> None:
        loaded = keys_with(job.keys, ended.outcomes, Outcome.OK)
        failed = keys_without(job.keys, ended.outcomes, Outcome.OK)
        self._figures.loaded += len(loaded)
        self._figures.loaded_bytes += ended.n_bytes
        self._figures.load_s += ended.seconds
        if loaded:
            self._backend.touched(loaded)
        if failed:
            self._figures.failed_loads += len(failed)
            self._figures.gone += ended.outcomes.count(Outcome.ABSENT)
            self._known.unavailable(failed, now_s)
            self._known.gone(keys_with(job.keys, ended.outcomes, Outcome.ABSENT, Outcome.CORRUPT), now_s)
        self._done.append(Done(job.number, True, loaded, failed, ended.n_bytes, ended.seconds))

    # --- ending ---------------------------------------------------------------

    def shut(self, why: str) -> None:
        """Nothing is asked of the store from now on: it turned out not to be what was configured."""
        self._health.shut(why)
        self.lookups.is_down = True

    def drain(self, seconds: float) -> bool:
        """Waits until nothing is under way; what hangs is given up then, and ends as failed.

        After it no row is read or written, and `finished` has all jobs. False: something was given up.
        """
        is_clean = self._backend.drain(seconds)
        self._collect(self._clock())
        return is_clean

    def close(self, seconds: float = 5.0) -> None:
        """Ends threads and lets go of the memory, in bounded time. Twice is fine."""
        self._known.close()
        if self._announcer is not None:
            self._announcer.close()
        self._backend.close(seconds)

    def statistics(self) -> StorageStatistics:
        """Cheap, but not for every step: about a tenth of a millisecond."""
        health, budget, announcements = self._health, self._budget, self._known.announcements
        return StorageStatistics(
            name=self.settings.name,
            is_down=health.is_down,
            takes_writes=health.writes.is_closed,
            times_down=health.whole.times_opened,
            last_error=health.last_error,
            counters=self.counters(),
            write_queue_bytes=budget.queued_bytes,
            write_bytes_per_s=budget.rate(self._clock()),
            jobs=len(self._jobs),
            announcements_waiting=len(announcements),
            announcements_dropped=announcements.dropped,
            catalogue=self._known.statistics(),
            backend=self._backend.statistics(),
        )

    def counters(self) -> dict[str, float]:
        """Those of `statistics`; in microseconds."""
        counters, answered = msgspec.structs.asdict(self._figures), self.lookups.counts
        counters["foreign_keys"] += answered.foreign
        counters["lookups_present"] = answered.present
        counters["lookups_absent"] = answered.absent
        counters["lookups_asked"] = answered.asked
        counters["lookups_down"] = answered.down
        counters["times_down"] = self._health.whole.times_opened
        counters["announcements_dropped"] = self._known.announcements.dropped
        return counters
