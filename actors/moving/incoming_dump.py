"""The sections of a dump on their way into a cluster: of one at a time, and no more than are bearable."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from kvatlas.index._native import content_of
from kvatlas.index.errors import InputError

BYTES_MAX = 4 << 30
"""Of the sections of one dump."""
PAIRS_MAX = 1 << 28
"""Of a block and a lane: shards are told 8 bytes of each, however few a set takes in a section."""
SILENT_S_MAX = 300.0
"""Whoever sends nothing for so long sends nothing more."""


class IncomingDump:
    """Takes one dump after the other. Any thread may call any method."""

    def __init__(
        self,
        *,
        bytes_max: int = BYTES_MAX,
        pairs_max: int = PAIRS_MAX,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bytes_max = bytes_max
        self._pairs_max = pairs_max
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._number = 0
        """Of the dump that comes, or came last."""
        self._is_coming = False
        self._forget()

    def begin(self) -> int:
        """A dump comes, in the place of one that has not been taken; its number."""
        with self._lock:
            self._forget()
            self._number += 1
            self._is_coming = True
            return self._number

    def put(self, number: int, section: bytes) -> None:
        """One section of it. Raises DumpError for what is none, InputError when they are too many bytes or
        pairs, or it is not this dump that comes: it comes no more then."""
        content = content_of(section)
        with self._lock:
            self._check(number)
            self._bytes += len(section)
            self._pairs += content.pairs
            for what, n, most in (
                ("bytes of sections", self._bytes, self._bytes_max),
                ("pairs of a block and a lane", self._pairs, self._pairs_max),
            ):
                if n > most:
                    self._forget()
                    raise InputError(f"dump: expected at most {most} {what}, got {n} and more")
            self._sections.append(section)

    def take(self, number: int) -> list[bytes]:
        """All that came. Raises InputError where another dump comes by now."""
        with self._lock:
            self._check(number)
            sections = self._sections
            self._forget()
            return sections

    def abandon(self, number: int) -> bool:
        """No more of it comes; whether nothing else does."""
        with self._lock:
            if number == self._number:
                self._forget()
            return not self._is_coming

    def expire(self) -> bool:
        """Forget a dump of which nothing has come for long; whether there was one."""
        with self._lock:
            is_over = self._is_coming and self._clock_s() - self._heard_s > SILENT_S_MAX
            if is_over:
                self._forget()
            return is_over

    def _check(self, number: int) -> None:
        if number != self._number:
            raise InputError("dump: expected to be the only one that is loaded, another one came")
        if not self._is_coming:
            raise InputError("dump: expected sections without a pause, it was given up meanwhile")
        self._heard_s = self._clock_s()

    def _forget(self) -> None:
        self._is_coming = False
        self._sections: list[bytes] = []
        self._bytes = self._pairs = 0
        self._heard_s = self._clock_s()
