"""How many tokenizers a pool should have, by how busy those are that it has."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from kvatlas.index.errors import ConfigError


class PoolLoad(NamedTuple):
    """What one member of a pool says of itself."""

    threads: int
    waiting: int
    """Requests in its queue now."""
    busy_share: float
    """Of its threads' time since it last said so, 0 to 1."""
    refused: int = 0
    """Requests since then that were more than its queue takes."""


class ScalingLimits(msgspec.Struct, frozen=True, kw_only=True):
    """When a pool grows and shrinks. Raises ConfigError for values out of range."""

    count_min: int = 0
    count_max: int = 0
    grow_s: float = 2.0
    """It grows when requests have waited for so long without a pause, and again after so long."""
    shrink_s: float = 60.0
    """It loses a member when one less would have done for so long."""
    shrink_share: float = 0.5
    """That is: those left would have been busy for less than this share of their time."""

    def __post_init__(self) -> None:
        if not 0 <= self.count_min <= self.count_max:
            raise ConfigError(f"count_min: expected 0 to count_max ({self.count_max}), got {self.count_min}")
        for name in ("grow_s", "shrink_s", "shrink_share"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name}: expected a number above 0, got {getattr(self, name)!r}")


class ScalingRule:
    """Turns loads into a wanted count.

    Crowded: as many requests wait as there are threads, or one was refused. Crowded for `grow_s` and all
    members there: half as many again. Idle: one member less would be busy for less than `shrink_share`.
    Idle for `shrink_s`: one less, and the time begins anew. Between the two nothing happens, so that a
    steady load gives a steady count. One thread at a time.
    """

    def __init__(self, limits: ScalingLimits, clock_s: Callable[[], float]) -> None:
        self._limits = limits
        self._clock_s = clock_s
        self._crowded = _Lasting(limits.grow_s)
        self._idle = _Lasting(limits.shrink_s)
        self.wanted = self._bounded(limits.count_min)

    def _bounded(self, count: int) -> int:
        # With room for some there is always one: who would see that a pool of none is crowded?
        least = max(self._limits.count_min, min(1, self._limits.count_max))
        return min(max(count, least), self._limits.count_max)

    def adopt(self, count: int) -> None:
        """So many are there already, of a time that this rule knows nothing of."""
        self.wanted = self._bounded(max(self.wanted, count))

    def step(self, loads: Iterable[PoolLoad]) -> int:
        """The count that is wanted now. `loads`: one of each member that is up."""
        members, now_s = list(loads), self._clock_s()
        is_crowded = self._crowded.see(_is_crowded(members), now_s)
        is_idle = self._idle.see(self._is_idle(members), now_s)
        if is_crowded and len(members) >= self.wanted:  # else those that were begun are still to come
            self._become(self.wanted + max(1, self.wanted // 2))
        elif is_idle:
            self._become(self.wanted - 1)
        return self.wanted

    def _become(self, count: int) -> None:
        self.wanted = self._bounded(count)
        self._crowded.begin_anew()
        self._idle.begin_anew()

    def _is_idle(self, members: list[PoolLoad]) -> bool:
        # One that never comes, for want of room, is the first that is not missed.
        n_left = min(len(members), self.wanted - 1)
        if n_left < 1 or any(one.waiting for one in members):
            return False
        threads = sum(one.threads for one in members) * n_left / len(members)
        busy = math.fsum(one.threads * one.busy_share for one in members)
        return busy < self._limits.shrink_share * threads


class _Lasting:
    """Whether something has been so for a while without a pause."""

    def __init__(self, lasting_s: float) -> None:
        self._lasting_s = lasting_s
        self._since_s: float | None = None

    def see(self, is_so: bool, now_s: float) -> bool:
        if not is_so:
            self._since_s = None
        elif self._since_s is None:
            self._since_s = now_s
        return self._since_s is not None and now_s - self._since_s >= self._lasting_s

    def begin_anew(self) -> None:
        self._since_s = None


def _is_crowded(members: list[PoolLoad]) -> bool:
    threads = sum(one.threads for one in members)
    waiting = sum(one.waiting for one in members)
    return any(one.refused for one in members) or 0 < threads <= waiting
