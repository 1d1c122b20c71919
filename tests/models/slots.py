"""Slots of pinned memory as an ordered dictionary: what native Slots must agree with."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

ABSENT, FILLING = -1, -2


@dataclass
class SlotModel:
    """Keys by state; READY ones in the order of their last use."""

    n_slots: int
    filling: dict[bytes, int] = field(default_factory=dict)
    ready: dict[bytes, int] = field(default_factory=dict)
    """Least recently used first; pinned ones keep a place that does not count."""
    pins: Counter[bytes] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)

    def find(self, key: bytes) -> int:
        """The slot, ABSENT or FILLING."""
        return FILLING if key in self.filling else self.ready.get(key, ABSENT)

    def idle(self) -> list[bytes]:
        """What may be evicted, the first first."""
        return [key for key in self.ready if not self.pins[key]]

    def free(self) -> set[int]:
        """Slots that hold nothing."""
        return set(range(self.n_slots)) - {*self.filling.values(), *self.ready.values()}

    def wanted(self, keys: list[bytes]) -> tuple[list[bytes], list[bytes]] | None:
        """Keys that a fill takes slots for, and those that it evicts; None: no room."""
        absent = [key for key in dict.fromkeys(keys) if self.find(key) == ABSENT]
        evictable = [key for key in self.idle() if key not in keys]
        n_evicted = max(0, len(absent) - len(self.free()))
        return None if n_evicted > len(evictable) else (absent, evictable[:n_evicted])

    def filled(self, keys: list[bytes], slots: dict[bytes, int], evicted: list[bytes]) -> None:
        """A fill has done so."""
        for key in keys:
            self.touch(key)
        for key in evicted:
            del self.ready[key]
        self.filling.update(slots)
        self.counts.update(filled=len(slots), evicted=len(evicted))

    def make_ready(self, key: bytes) -> None:
        """FILLING to READY."""
        self.ready[key] = self.filling.pop(key)

    def drop(self, key: bytes) -> None:
        """To free."""
        (self.filling if key in self.filling else self.ready).pop(key)
        self.counts["dropped"] += 1

    def pin(self, key: bytes) -> int:
        """One more pin, if READY."""
        if key in self.ready:
            self.pins[key] += 1
        return self.find(key)

    def unpin(self, key: bytes) -> None:
        """One less; the last one is a use."""
        self.pins[key] -= 1
        self.touch(key)

    def touch(self, key: bytes) -> None:
        """A use."""
        if key in self.ready and not self.pins[key]:
            self.ready[key] = self.ready.pop(key)

    def clear(self) -> None:
        """Forgets what is idle."""
        for key in self.idle():
            del self.ready[key]
