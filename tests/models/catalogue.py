"""What is known of a store's keys, as dictionaries: what the native Catalogue must agree with."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

UNKNOWN, PRESENT, ABSENT, ASKED = range(4)


@dataclass
class CatalogueModel:
    """Known keys in the order of their last use, and those that wait in the order of asking."""

    entries_max: int
    absent_s: float
    known: dict[bytes, tuple[int, float]] = field(default_factory=dict)
    """State and, of ABSENT, when it ends; least recently used first."""
    waiting: dict[bytes, None] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def find(self, key: bytes, now_s: float) -> int:
        """The state; an ABSENT whose time is over is forgotten."""
        if key in self.waiting:
            return ASKED
        if key not in self.known:
            return UNKNOWN
        state, until_s = self.known[key]
        if state == ABSENT and now_s >= until_s:
            del self.known[key]
            self.counts["expired"] += 1
            return UNKNOWN
        self.known[key] = self.known.pop(key)
        return state

    def has_room(self, key: bytes) -> bool:
        """Evicts for a key that is not known; False: all that is known waits."""
        if key in self.known or key in self.waiting or len(self.known) + len(self.waiting) < self.entries_max:
            return True
        if not self.known:
            self.counts["refused"] += 1
            return False
        del self.known[next(iter(self.known))]
        self.counts["evicted"] += 1
        return True

    def ask(self, key: bytes) -> bool:
        """To be given out, unless it has been or will be."""
        if not self.has_room(key):
            return False
        if key not in self.waiting and self.known.get(key, (UNKNOWN, 0.0))[0] != ASKED:
            self.known.pop(key, None)
            self.waiting[key] = None
        return True

    def take_asked(self, most: int) -> list[bytes]:
        """The longest waiting."""
        taken = list(self.waiting)[:most]
        for key in taken:
            del self.waiting[key]
            self.known[key] = (ASKED, 0.0)
        return taken

    def set(self, key: bytes, state: int, now_s: float) -> None:
        """An answer, asked for or not."""
        if not self.has_room(key):
            return
        self.waiting.pop(key, None)
        self.known.pop(key, None)
        self.known[key] = (state, now_s + self.absent_s)

    def forget(self, key: bytes) -> None:
        """Nothing is known."""
        self.waiting.pop(key, None)
        self.known.pop(key, None)

    def n_in(self, state: int) -> int:
        """How many keys are in a state."""
        return sum(known == state for known, _ in self.known.values()) + (state == ASKED) * len(self.waiting)
