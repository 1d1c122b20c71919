"""A writer's own numbers, and those that its session has been lent for them in the server."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import numpy as np

from kvatlas.index._native import rename_lanes
from kvatlas.index.remote.fleet.settings import LANES_IN_CHUNK

_NONE = 2**32 - 1


class Renaming:
    """Own numbers to lent ones, of one kind, for one session. One thread at a time.

    An own number keeps its lent one until `renew`. What `renew` lets go of rests before it is used
    again: readers that have not heard of it yet must not take one worker's blocks for another's.
    """

    def __init__(
        self, lease: Callable[[], range | None], rest_s: float, clock_s: Callable[[], float]
    ) -> None:
        """`lease`: more numbers, None when the server has none left."""
        self._lease = lease
        self._rest_s = rest_s
        self._clock_s = clock_s
        self._lent = np.full(64, _NONE, np.uint32)
        self._free: deque[int] = deque()
        self._resting: deque[tuple[float, int]] = deque()
        self.chunks: list[int] = []
        """Held, for the server to check."""
        self.refused: set[int] = set()
        """Own numbers that there was none for."""

    def want(self, own: Iterable[int]) -> None:
        """Have lent numbers for these, where there are some left; a round trip for 32 new ones."""
        for number in own:
            if number >= len(self._lent):
                more = np.full(max(len(self._lent), number + 1 - len(self._lent)), _NONE, np.uint32)
                self._lent = np.concatenate([self._lent, more])
            if self._lent[number] == _NONE:
                self._give(number)

    def _give(self, number: int) -> None:
        now_s = self._clock_s()
        while self._resting and self._resting[0][0] <= now_s:
            self._free.append(self._resting.popleft()[1])
        if not self._free:
            chunk = self._lease()
            if chunk is None:
                self.refused.add(number)
                return
            self.chunks.append(chunk.start // LANES_IN_CHUNK)
            self._free.extend(chunk)
        self._lent[number] = self._free.popleft()
        self.refused.discard(number)

    def of(self, own: int) -> int | None:
        """Its lent number; None: it has none."""
        lent = int(self._lent[own]) if own < len(self._lent) else _NONE
        return None if lent == _NONE else lent

    def renew(self) -> list[int]:
        """All own numbers will have others; returns those that they had."""
        had = [int(lent) for lent in self._lent[self._lent != _NONE]]
        free_at_s = self._clock_s() + self._rest_s
        self._resting.extend((free_at_s, lent) for lent in had)
        self._lent[:] = _NONE
        self.refused.clear()
        return had

    def records(self, delta: bytes, *, removals_only: bool = False) -> bytes:
        """Delta records of own lanes, told of the lent ones; those of lanes without one are left out."""
        return rename_lanes(delta, self._lent, removals_only)
