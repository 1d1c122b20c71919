"""Requests that wait for chunks: for how long, and what is kept for them meanwhile."""

from __future__ import annotations

from collections.abc import Sequence

from kvatlas.offload._native import Slots


class Waiter:
    """One request that was told to ask again."""

    __slots__ = ("gave_up", "has_failed", "held", "seen_s", "since_s")

    def __init__(self) -> None:
        self.since_s: float | None = None
        """Since when it waits; None: it does not."""
        self.seen_s = 0.0
        """When it last asked."""
        self.gave_up = False
        """It has waited for long enough: what is not in the window is missing, for it."""
        self.has_failed = False
        """A load of its has failed on a device: for it, everything is missing, else it would try for ever."""
        self.held: set[bytes] = set()
        """Pinned, so that the first chunks of its prefix are still there when the last ones come."""


class Waiting:
    """The waiters of a window, by request; one thread. Bounded: by the requests that live, and by
    hold_s_max.
    """

    def __init__(self, slots: Slots, wait_s_max: float, hold_s_max: float) -> None:
        self._slots = slots
        self._wait_s_max, self._hold_s_max = wait_s_max, hold_s_max
        self._waiters: dict[str, Waiter] = {}
        self.gave_up = 0
        """Requests whose wait was too long."""
        self.expired = 0
        """Requests that were not seen again in time."""

    def __len__(self) -> int:
        return len(self._waiters)

    @property
    def n_held(self) -> int:
        return sum(len(waiter.held) for waiter in self._waiters.values())

    def may_wait(self, request: str, now_s: float) -> bool:
        """Whether a request may be told to ask again; the first time starts its clock."""
        waiter = self._waiters.get(request)
        if waiter is None:
            waiter = self._waiters[request] = Waiter()
        waiter.seen_s = now_s
        if waiter.gave_up:
            return False
        if waiter.since_s is None:
            waiter.since_s = now_s
        elif now_s - waiter.since_s > self._wait_s_max:
            self.gave_up += 1
            waiter.gave_up = True
            self._release(waiter)
        return not waiter.gave_up

    def hold(self, request: str, keys: Sequence[bytes]) -> None:
        """Keeps READY chunks in the window for a request that waits for others."""
        waiter = self._waiters.get(request)
        if waiter is None or waiter.gave_up:
            return
        new = [key for key in dict.fromkeys(keys) if key not in waiter.held]
        if new:
            rows = self._slots.pin(b"".join(new))
            waiter.held.update(key for key, row in zip(new, rows.tolist(), strict=True) if row >= 0)

    def served(self, request: str) -> None:
        """Its chunks are being loaded, and pinned for that: it waits no longer."""
        waiter = self._waiters.get(request)
        if waiter is not None:
            self._release(waiter)
            waiter.since_s = None

    def failed(self, request: str, now_s: float) -> None:
        """A load of it has failed on a device: it is not to try that again, but to compute."""
        waiter = self._waiters.setdefault(request, Waiter())
        waiter.has_failed, waiter.seen_s = True, now_s

    def has_failed(self, request: str) -> bool:
        waiter = self._waiters.get(request)
        return waiter is not None and waiter.has_failed

    def forget(self, request: str) -> None:
        """The request has ended."""
        waiter = self._waiters.pop(request, None)
        if waiter is not None:
            self._release(waiter)

    def forget_all(self) -> None:
        for request in list(self._waiters):
            self.forget(request)

    def expire(self, now_s: float) -> None:
        """Lets go of what is held for requests that have not asked again."""
        for waiter in self._waiters.values():
            if waiter.held and now_s - waiter.seen_s > self._hold_s_max:
                self.expired += 1
                self._release(waiter)

    def _release(self, waiter: Waiter) -> None:
        if waiter.held:
            self._slots.unpin(b"".join(waiter.held))
            waiter.held.clear()
