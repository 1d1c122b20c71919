"""Whether a store answers at all, and whether it takes writes: two breakers, fed by how jobs end."""

from __future__ import annotations

import logging

from kvatlas.index.errors import quoted
from kvatlas.offload.backends.backend import Finished, Outcome
from kvatlas.offload.storing.breaker import Breaker

_log = logging.getLogger(__name__)

_ANSWERS = (Outcome.OK, Outcome.PRESENT, Outcome.ABSENT, Outcome.CORRUPT)
_FAILURES = (Outcome.FAILED, Outcome.TIMED_OUT)
_REFUSALS = (Outcome.NO_SPACE, Outcome.READ_ONLY)


class Health:
    """What jobs have told of a store; one thread.

    Down: errors or time limits in a row, of whatever kind of job; nothing is asked of it but a trial now and
    then. Not writable: a full or read-only store at once, or errors of writes in a row; it is still read.
    """

    def __init__(self, store: str, failures_max: int, open_s_min: float, open_s_max: float) -> None:
        self._store, self._failures_max = store, failures_max
        self.whole = Breaker(failures_max, open_s_min, open_s_max)
        self.writes = Breaker(failures_max, open_s_min, open_s_max)
        self.last_error = ""

    @property
    def is_down(self) -> bool:
        return not self.whole.is_closed

    def shut(self, why: str) -> None:
        """Down for good."""
        _log.error("store %s is not used: %s", self._store, why)
        self.last_error = why
        self.whole.shut()

    def judge(self, ended: Finished, now_s: float, *, is_store: bool) -> None:
        """Takes in the end of a job."""
        was_down, took_writes = self.is_down, self.writes.is_closed
        if ended.error:
            self.last_error = quoted(ended.error, 200)
        count = ended.outcomes.count
        answers, failures, refusals = count(Outcome.OK), 0, 0
        if answers < len(ended.outcomes):  # seldom
            answers, failures, refusals = (sum(map(count, kind)) for kind in (_ANSWERS, _FAILURES, _REFUSALS))
        if answers:
            self.whole.succeeded()
        elif failures:
            self.whole.failed(now_s, failures)
        if is_store:
            if refusals:  # some chunks may still have found room: what counts is that others did not
                self.writes.failed(now_s, self._failures_max)
            elif answers:
                self.writes.succeeded()
            elif failures:
                self.writes.failed(now_s, failures)
        self._say(was_down, took_writes)

    def _say(self, was_down: bool, took_writes: bool) -> None:
        if self.is_down != was_down:
            if self.is_down:
                _log.warning(
                    "store %s does not answer, serving goes on without it: %s", self._store, self.last_error
                )
            else:
                _log.warning("store %s answers again", self._store)
        if self.writes.is_closed != took_writes:
            if took_writes:
                _log.warning("store %s takes no writes, it is still read: %s", self._store, self.last_error)
            else:
                _log.warning("store %s takes writes again", self._store)
