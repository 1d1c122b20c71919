"""Files in a store, and what their names mean: the model of the native store. All that is known is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.models.meaning import Meaning


@dataclass
class File:
    """Named by the last of its blocks."""

    blocks: tuple[int, ...]
    groups: set[int] = field(default_factory=set)
    covering: bool = False


@dataclass
class Store:
    """A set of files named by engine keys, and what mirrors have taught of any engine key."""

    tier: int
    blocks_max: int = 1 << 20
    known: dict[int, Meaning] = field(default_factory=dict)
    files: dict[int, File] = field(default_factory=dict)
    covers: Counter[int] = field(default_factory=Counter)
    """Files that count, by each of their blocks."""
    needed: set[int] = field(default_factory=set)

    def residency(self) -> dict[int, int]:
        held = (self.known[key] for key, n in self.covers.items() if n > 0 and key in self.known)
        return {block: self.tier for meaning in held for block, _ in meaning.blocks}

    def learn(self, meanings: Iterable[tuple[int, Meaning]]) -> None:
        for key, meaning in meanings:
            if meaning.whole or meaning.unindexed is not None:
                self.known.setdefault(key, meaning)
                self._judge([key])

    def hold(self, blocks: tuple[int, ...], group: int) -> str:
        """`blocks` of one file are there; "before", "now", "waits" or "no_room"."""
        name = blocks[-1]
        file = self.files.setdefault(name, File(blocks))
        if len(blocks) > len(file.blocks):
            self._cover(file, False)
            file.blocks = blocks
        told = group in file.groups
        file.groups.add(group)
        if not self._judge([name]):
            del self.files[name]
            return "no_room"
        for block in file.blocks if file.covering else ():
            if self.covers[block] == 0 and self._n_resident() < self.blocks_max:
                self.covers[block] = 1
        return "before" if told else "now" if name in self.known else "waits"

    def release(self, names: Sequence[int], group: int) -> list[int]:
        """Those that were not there."""
        inside: set[int] = set()
        others = []
        for name in names:
            file = self.files.get(name)
            if file is None or group not in file.groups:
                others.append(name)
                continue
            if len(file.blocks) > 1:
                inside.update(file.blocks)
            file.groups.discard(group)
            self._judge([name])
            if not file.groups:
                del self.files[name]
        unknown = []
        for name in others:
            if name in inside:
                continue
            if self.covers[name] > 0 and name not in self.files:
                self.covers[name] = 0
            else:
                unknown.append(name)
        return unknown

    def need(self, groups: set[int]) -> None:
        if groups:
            changes, self.needed = groups != self.needed, groups
            for file in self.files.values() if changes else ():
                if not file.groups >= groups:
                    self._cover(file, False)
            self._judge(self.files if changes else ())

    def forget_meanings(self) -> None:
        for file in self.files.values():
            self._cover(file, False)
        self.covers.clear()
        self.known.clear()

    def _judge(self, names: Iterable[int]) -> bool:
        """Whether those of these files that should count do; else there is no room for one."""
        found_room = True
        for name in list(names):
            file = self.files.get(name)
            if file is not None:
                counts = name in self.known and bool(file.groups) and file.groups >= self.needed
                found_room &= self._cover(file, counts)
        return found_room

    def _n_resident(self) -> int:
        return sum(n > 0 and block in self.known for block, n in self.covers.items())

    def _cover(self, file: File, covers: bool) -> bool:
        if covers == file.covering:
            return True
        resident = self._n_resident()
        new = sum(self.covers[block] == 0 for block in file.blocks)
        if covers and resident + new > self.blocks_max:
            return False
        file.covering = covers
        for block in file.blocks:
            self.covers[block] = max(0, self.covers[block] + (1 if covers else -1))
        return True
