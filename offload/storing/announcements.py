"""What is to be told of a store: keys stored, keys removed, in the order in which it happened."""

from __future__ import annotations

import collections
from collections.abc import Sequence

import msgspec


class Announcement(msgspec.Struct, frozen=True):
    """Chunks that a store has from now on, or no longer."""

    keys: Sequence[bytes]
    is_removal: bool


class Announcements:
    """A bounded queue of announcements; one thread.

    Beyond `keys_max` keys the oldest stores are dropped, then removals: a store that is not told costs a
    hit, a removal that is not told leaves a phantom.
    """

    def __init__(self, keys_max: int, *, is_on: bool = True) -> None:
        self._keys_max = keys_max
        self._is_on = is_on
        self._queue: collections.deque[Announcement] = collections.deque()
        self._n_keys = 0
        self.dropped = 0
        """Keys that were never announced."""

    def __len__(self) -> int:
        """Keys that wait."""
        return self._n_keys

    def add(self, keys: Sequence[bytes], *, is_removal: bool) -> None:
        if not keys or not self._is_on:
            return
        self._queue.append(Announcement(keys, is_removal))
        self._n_keys += len(keys)
        if self._n_keys > self._keys_max:
            self._shrink()

    def take(self) -> list[Announcement]:
        taken = list(self._queue)
        self._queue.clear()
        self._n_keys = 0
        return taken

    def _shrink(self) -> None:
        kept: list[Announcement] = []
        while self._queue and self._n_keys > self._keys_max:
            oldest = self._queue.popleft()
            if oldest.is_removal:
                kept.append(oldest)
            else:
                self._drop(oldest)
        self._queue.extendleft(reversed(kept))
        while self._n_keys > self._keys_max:
            self._drop(self._queue.popleft())

    def _drop(self, announcement: Announcement) -> None:
        self._n_keys -= len(announcement.keys)
        self.dropped += len(announcement.keys)
