"""The conversation of a stream with its replay socket: what is asked, how long to wait, when again.

Thread safety: none; it belongs to a stream.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from kvatlas.ingest.stream.limits import StreamLimits


class ReplayRequest(NamedTuple):
    """What should be asked of the replay socket now."""

    number: int
    """Of the request in its stream; what is answered to an older one is ignored."""
    start: int
    """The first batch wanted."""


class ReplayTalk:
    """One question after the other; the answer to an older one counts no more."""

    def __init__(self, limits: StreamLimits, now_s: float) -> None:
        self._limits = limits
        self.asking = False
        """From a question until an answer to it, or a later one, is complete, pauses included."""
        self.request: ReplayRequest | None = None
        """In flight, or to be sent. None: none, or later."""
        self.whole = False
        """All is asked for, not what follows the last batch applied."""
        self.answered = False
        """Something of the answer has come."""
        self.confirmed = False
        """The last batch applied was in it, the very same."""
        self.applied = False
        """Something of it has been applied."""
        self.skips = False
        """It skipped a batch; what followed in it is not used."""
        self.failures = 0
        """Failed answers since the last complete one."""
        self.confirmed_s = now_s
        """When the last complete answer ended."""
        self._n_requests = 0
        self._ask_at_s: float | None = None
        self._began_s: float | None = None
        self._progress_s = now_s
        self._skipped: Counter[int] = Counter()

    @property
    def may_ask(self) -> bool:
        """Whether an answer can be hoped for."""
        return self.failures < self._limits.answers_failed_max

    def ask(self, start: int, now_s: float, *, whole: bool) -> None:
        self.asking = True
        self.whole = whole
        self.answered = self.confirmed = self.applied = self.skips = False
        self._ask_at_s = self._began_s = None
        self._progress_s = now_s
        self._n_requests += 1
        self.request = ReplayRequest(self._n_requests, start)

    def adopt(self, number: int, now_s: float) -> bool:
        """The whole has been asked for already, by this number; False: something has been asked before."""
        if self._n_requests:
            return False
        self._n_requests = number - 1
        self.ask(0, now_s, whole=True)
        self.began(now_s)
        return True

    def ask_later(self, now_s: float, tries: int) -> None:
        """After a pause that doubles with the tries, 1 and more."""
        limits = self._limits
        pause_s = min(limits.retry_s_min * 2.0 ** min(tries - 1, 32), limits.retry_s_max)
        self.request = None
        self._ask_at_s = now_s + pause_s

    def ask_at(self, time_s: float) -> None:
        """From the last batch on, when that time has come; live batches flow until then."""
        self.whole = False
        self._ask_at_s = time_s

    def is_due(self, now_s: float) -> bool:
        """Whether a pause has ended."""
        return self._ask_at_s is not None and now_s >= self._ask_at_s

    @property
    def is_pausing(self) -> bool:
        return self._ask_at_s is not None

    def is_current(self, number: int) -> bool:
        return self.request is not None and self.request.number == number

    def began(self, now_s: float) -> None:
        self._began_s = self._progress_s = now_s

    def went_on(self, now_s: float) -> None:
        self._progress_s = now_s

    def overdue(self, now_s: float) -> str:
        """What is wrong with an answer that takes too long; empty: nothing."""
        if self.request is None or self._began_s is None:
            return ""
        if now_s - self._progress_s >= self._limits.answer_s_max:
            return f"nothing came for {self._limits.answer_s_max:g} s"
        if now_s - self._began_s >= self._limits.replay_s_max:
            return f"no end after {self._limits.replay_s_max:g} s"
        return ""

    def failed(self, now_s: float) -> None:
        """An answer that brought something on is no failure, but only cut."""
        if not self.applied:
            self.failures += 1
        self.whole = self.whole and not self.applied
        self.ask_later(now_s, max(self.failures, 1))

    def is_long(self, quiet_s: float, heard_s: float) -> bool:
        """Whether a silence, of which the last live batch was at `heard_s`, should be asked about."""
        confirmed = self.confirmed_s >= heard_s
        return quiet_s >= (self._limits.confirm_every_s if confirmed else self._limits.confirm_after_s)

    def completed(self, now_s: float) -> None:
        self.failures = 0
        self.confirmed_s = now_s

    def has_hole_at(self, seq: int) -> bool:
        """Whether enough complete answers did without it: it was never published."""
        return self._skipped[seq] >= self._limits.hole_answers

    def note_skip(self, seq: int) -> None:
        """A complete answer did without it."""
        self._skipped[seq] += 1

    def forget_skips(self) -> None:
        self._skipped.clear()

    def stop(self) -> None:
        """Nothing is asked any more."""
        self.asking = False
        self.request = self._ask_at_s = None
