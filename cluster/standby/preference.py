"""Which of two clusters is asked: the first, as long as the second would not answer better."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from enum import IntEnum

from kvatlas.actors.reading.reader_status import ReaderStatus
from kvatlas.index.view import WorkerView


class Grade(IntEnum):
    """How well a cluster can be read; a higher one is better."""

    GONE = 0
    """It cannot be found, or has no view yet."""
    DISTRUSTED = 1
    """Its directory has not confirmed the view for too long: every worker is DEGRADED."""
    LACKING = 2
    """A shard is missing or not whole, most workers cannot be vouched for, or none is known."""
    GOOD = 3


def grade_of(status: ReaderStatus, workers: tuple[WorkerView, ...]) -> Grade:
    """Of a cluster that has a view."""
    if not status.is_trusted:
        return Grade.DISTRUSTED
    for shard in status.shards:
        if shard.how == "missing" or shard.is_whole is False or shard.says:
            return Grade.LACKING
    vouched = sum(worker.state in ("EXACT", "PARTIAL") for worker in workers)
    return Grade.GOOD if workers and 2 * vouched >= len(workers) else Grade.LACKING


def differences(first: Mapping[str, int], second: Mapping[str, int]) -> list[str]:
    """Why the second is no standby of the first, by the models of each and the tokens of their blocks. Who
    knows no model yet differs in nothing."""
    if not first or not second:
        return []
    missing = [f"it has heard no server of model {model!r}" for model in sorted(first) if model not in second]
    sizes = [
        f"a block of model {model!r} is {second[model]} tokens there, not {size}"
        for model, size in sorted(first.items())
        if size and second.get(model) and size != second[model]
    ]
    return [*missing, *sizes]


class Preference:
    """Decides by grades. One thread at a time.

    To the second at once where it is better; back to the first when that has been no worse for
    `return_s` on end, so that one that comes and goes is left alone.
    """

    def __init__(self, return_s: float, clock_s: Callable[[], float] = time.monotonic) -> None:
        self.choice = 0
        """0: the first; 1: the second."""
        self.switches = 0
        self._return_s = return_s
        self._clock_s = clock_s
        self._good_since_s: float | None = None

    def judge(self, first: Grade, second: Grade) -> int:
        """The choice by what is known now."""
        if second > first:
            self._good_since_s = None
            self._choose(1)
        elif self.choice == 1:
            now_s = self._clock_s()
            if self._good_since_s is None:
                self._good_since_s = now_s
            if now_s - self._good_since_s >= self._return_s or second is Grade.GONE:
                self._choose(0)
        return self.choice

    def _choose(self, choice: int) -> None:
        self.switches += choice != self.choice
        self.choice = choice
