"""A circuit breaker: whether a thing that has failed is asked again."""

from __future__ import annotations


class Breaker:
    """Closed (all is admitted), open (nothing is), half open (one trial is under way).

    It opens after `failures_max` failures in a row. When `open_s_min` have passed one trial is admitted; if
    that fails too the wait doubles, up to `open_s_max`, and is short again only after as long a time without
    a failure. A trial that is never answered is followed by another. Any success closes it. One thread.
    """

    def __init__(self, failures_max: int, open_s_min: float, open_s_max: float) -> None:
        self._failures_max = failures_max
        self._open_s_min, self._open_s_max = open_s_min, open_s_max
        self._open_s = open_s_min
        self._failures = 0
        self._failed_at_s = float("-inf")
        self._due_s = 0.0
        self._is_tried = False
        self._is_shut = False
        self.is_closed = True
        self.times_opened = 0

    def admits(self, now_s: float) -> bool:
        """Whether to ask now. While it is not closed, it is a trial: `tried` says that it was made."""
        return self.is_closed or now_s >= self._due_s

    def tried(self, now_s: float) -> None:
        """What was admitted is under way."""
        if not self.is_closed:
            self._is_tried = True
            self._due_s = now_s + self._open_s_max

    def succeeded(self) -> None:
        """There was an answer."""
        self._failures = 0
        self.is_closed = not self._is_shut
        self._is_tried = False

    def shut(self) -> None:
        """Open for good."""
        self._is_shut, self.is_closed = True, False
        self._due_s = float("inf")

    def failed(self, now_s: float, failures: int = 1) -> None:
        """So many failures were seen. Those of what was under way when it opened change nothing."""
        if self.is_closed and now_s - self._failed_at_s >= self._open_s_max:
            self._open_s = self._open_s_min
        self._failed_at_s = now_s
        self._failures += failures
        if self._is_tried or (self.is_closed and self._failures >= self._failures_max):
            self.times_opened += self.is_closed
            self.is_closed = self._is_tried = False
            self._due_s = now_s + self._open_s
            self._open_s = min(2 * self._open_s, self._open_s_max)
