"""The time of one request."""

from __future__ import annotations

import time


class Deadline:
    """When a request is over: after its time; where connections are made first, after theirs besides.
    Monotonic."""

    def __init__(self, timeout_s: float, connect_s: float) -> None:
        self.timeout_s = timeout_s
        self.until_s = time.monotonic() + timeout_s
        self.hard_until_s = self.until_s + connect_s

    def after_connecting(self) -> float:
        """For an answer by a connection that was made just now: its whole time again."""
        return min(time.monotonic() + self.timeout_s, self.hard_until_s)
