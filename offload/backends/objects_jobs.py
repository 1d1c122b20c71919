"""Jobs of threads that may hang: when each ends, and who may touch rows until then.

A job is given up at its deadline, or by `drain`. A thread claims a job each time before it touches one of
its rows, which takes no longer than a copy; after a job has ended no claim on it succeeds. So a request that
hangs in the network reads and writes nothing but its thread's own memory.
"""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable, Sequence

from kvatlas.offload.backends.backend import Finished, Outcome, Rows


class JobKind(enum.Enum):
    STORE = "store"
    LOAD = "load"
    PROBE = "probe"


class Job:
    """One job; what changes belongs to its `Jobs`."""

    __slots__ = (
        "begun_s",
        "claims",
        "error",
        "given_up",
        "keys",
        "kind",
        "left",
        "n_bytes",
        "number",
        "outcomes",
        "rows",
    )

    def __init__(self, number: int, kind: JobKind, keys: Sequence[bytes], rows: Rows | None, now_s: float):
        self.number, self.kind, self.keys, self.rows = number, kind, keys, rows
        self.begun_s = now_s
        self.outcomes: list[Outcome | None] = [None] * len(keys)
        self.left = len(keys)
        """Keys without an outcome."""
        self.claims = 0
        """Threads that touch its rows at this moment."""
        self.given_up: Outcome | None = None
        """What its remaining keys end as."""
        self.n_bytes, self.error = 0, ""


class Jobs:
    """The jobs under way. Thread-safe; no method but `drain` waits, no lock is held while bytes are moved."""

    def __init__(self, time_limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._time_limit_s, self._clock = time_limit_s, clock
        self._jobs: dict[int, Job] = {}
        self._changed = threading.Condition()
        self.outcomes = dict.fromkeys(Outcome, 0)
        """Keys by how they ended."""

    def begin(self, number: int, kind: JobKind, keys: Sequence[bytes], rows: Rows | None = None) -> Job:
        """A new job; its deadline runs from here, its time in the queue included."""
        job = Job(number, kind, keys, rows, self._clock())
        with self._changed:
            self._jobs[number] = job
        return job

    def is_wanted(self, job: Job) -> bool:
        """Whether there is any use in going on with it."""
        return job.given_up is None and self._clock() < job.begun_s + self._time_limit_s

    def claim(self, job: Job) -> bool:
        """True: its rows may be touched, until `release`."""
        with self._changed:
            if not self.is_wanted(job):
                return False
            job.claims += 1
            return True

    def release(self, job: Job) -> None:
        with self._changed:
            job.claims -= 1
            self._changed.notify_all()

    def end_key(self, job: Job, index: int, outcome: Outcome, n_bytes: int = 0, error: str = "") -> None:
        """One key has ended. Of a job that was given up it is too late, and nothing changes."""
        with self._changed:
            if job.given_up is not None or job.outcomes[index] is not None:
                return
            job.outcomes[index] = outcome
            job.left -= 1
            job.n_bytes += n_bytes
            job.error = job.error or error
            self._changed.notify_all()

    def finished(self) -> list[Finished]:
        """The jobs that have ended since the last call, those at their deadline among them."""
        with self._changed:
            now_s = self._clock()
            for job in self._jobs.values():
                if job.left and now_s >= job.begun_s + self._time_limit_s:
                    self._give_up(job, Outcome.TIMED_OUT)
            ended = [job for job in self._jobs.values() if not job.claims and _is_over(job)]
            for job in ended:
                del self._jobs[job.number]
        return [self._report(job, now_s) for job in ended]

    def drain(self, seconds: float) -> bool:
        """Waits until all jobs have ended; gives up what has not. False: something was given up."""
        until_s = self._clock() + seconds
        with self._changed:
            is_done = self._wait(lambda: all(_is_over(job) for job in self._jobs.values()), until_s)
            for job in self._jobs.values():
                if not _is_over(job):
                    self._give_up(job, Outcome.CANCELLED)
            # A claim is a copy of one chunk in memory: it ends.
            self._changed.wait_for(lambda: not any(job.claims for job in self._jobs.values()))
        return is_done

    @property
    def open_jobs(self) -> int:
        return len(self._jobs)

    def _wait(self, is_so: Callable[[], bool], until_s: float) -> bool:
        while not is_so():
            left_s = until_s - self._clock()
            if left_s <= 0:
                return False
            self._changed.wait(left_s)
        return True

    @staticmethod
    def _give_up(job: Job, outcome: Outcome) -> None:
        if job.given_up is None:
            job.given_up = outcome

    def _report(self, job: Job, now_s: float) -> Finished:
        rest = job.given_up if job.given_up is not None else Outcome.FAILED
        outcomes = [one if one is not None else rest for one in job.outcomes]
        for outcome in outcomes:
            self.outcomes[outcome] += 1
        seconds = now_s - job.begun_s
        error = job.error or (f"no end after {seconds:.1f} s" if job.given_up is not None else "")
        return Finished(job.number, bytes(outcomes), job.n_bytes, seconds, error)


def _is_over(job: Job) -> bool:
    return job.left == 0 or job.given_up is not None
