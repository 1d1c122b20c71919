"""What a router has done, and how long Serve had to wait for it."""

from __future__ import annotations

from array import array
from collections import Counter

import msgspec

_TIMES_MAX = 4096


class HookTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Of the last calls of one hook, in microseconds. `choose` includes what it awaits."""

    calls: int
    """Since the start."""
    p50_us: float
    p99_us: float


class RouterStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Of one router, that is of one handle in one process."""

    counts: dict[str, int]
    """Calls by how they were routed: `scored`; `partly_scored` with what was at hand; by load alone for
    each other reason (docs/serve.md)."""
    said: dict[str, str]
    """The last words to each count that has a reason."""
    in_flight: int
    hooks: dict[str, HookTimes]


class Tally:
    """Counts and times. One thread: the event loop."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._said: dict[str, str] = {}
        self._times_ns: dict[str, array[int]] = {}
        self._calls: Counter[str] = Counter()

    def count(self, kind: str, why: str = "") -> int:
        """How often it was this. `kind` is one of few."""
        self.counts[kind] += 1
        if why:
            self._said[kind] = why[:1024]
        return self.counts[kind]

    def took_ns(self, hook: str, ns: int) -> None:
        times = self._times_ns.get(hook)
        if times is None:
            times = self._times_ns[hook] = array("q")
        calls = self._calls[hook]
        if len(times) < _TIMES_MAX:
            times.append(ns)
        else:
            times[calls % _TIMES_MAX] = ns
        self._calls[hook] = calls + 1

    def statistics(self, in_flight: int) -> RouterStatistics:
        return RouterStatistics(
            counts=dict(self.counts),
            said=dict(self._said),
            in_flight=in_flight,
            hooks={hook: _times(times, self._calls[hook]) for hook, times in self._times_ns.items()},
        )


def _times(times_ns: array[int], calls: int) -> HookTimes:
    ordered = sorted(times_ns)
    return HookTimes(
        calls=calls,
        p50_us=ordered[len(ordered) // 2] / 1000,
        p99_us=ordered[len(ordered) * 99 // 100] / 1000,
    )
