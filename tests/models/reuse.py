"""What an engine reuses of a prompt, in plain Python: docs/indexer.md's rules, block by block.

Everything is counted in tokens; a group's blocks and chunks are lists of bools or tier masks, and a
group's longest hit is the greatest of all lengths at which it hits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

GPU = 1
BEHIND = 2 | 4 | 8 | 16
"""Tiers that a connector loads from."""

FULL, WINDOW, LOCAL, STATE, UNCACHED = range(5)


@dataclass(frozen=True)
class Group:
    kind: int = FULL
    window: int = 0
    block: int = 16
    """Tokens of the engine's block: a multiple of the index's."""
    draft: bool = False

    @property
    def effective_kind(self) -> int:
        return FULL if self.kind in (WINDOW, LOCAL) and self.window == 0 else self.kind


@dataclass(frozen=True)
class Engine:
    groups: tuple[Group, ...]
    chunk_blocks: int = 1
    recomputes: bool = True
    drops: bool = False

    def drops_in(self, group: Group) -> bool:
        return group.draft if any(g.draft for g in self.groups) else self.drops


@dataclass
class Prompt:
    """Tier masks of each index block: of each group, and of the stores."""

    tokens: int
    block: int
    held: Sequence[Sequence[int]]
    stored: Sequence[int]

    @property
    def whole(self) -> int:
        return self.tokens // self.block * self.block


@dataclass
class Reuse:
    tokens: int
    device_tokens: int
    tiers: list[int] = field(default_factory=list)
    """Of each block behind the device's: its tier bit."""


def reuse(engine: Engine, prompt: Prompt) -> Reuse:
    device = device_tokens(engine, prompt)
    behind = Connector(engine, prompt, device)
    tokens = device + behind.tokens()
    blocks = range(device // prompt.block, -(-tokens // prompt.block))
    return Reuse(tokens, device, [behind.tier(block) for block in blocks])


# The device.


def device_tokens(engine: Engine, prompt: Prompt) -> int:
    asked = _alike(engine)
    most = prompt.tokens - engine.recomputes
    if not asked:
        return 0
    align = math.lcm(*(group.block for group, _, _ in asked))
    hits = [_OnDevice(prompt, group, members, align) for group, members, _ in asked]
    drops = [drop for _, _, drop in asked]
    if len(engine.groups) == 1:
        return hits[0].longest(most, drops[0])
    if not any(drops):
        lengths = range(0, min(most, prompt.whole) + 1, align)
        return max(length for length in lengths if all(hit.at(length, most) for hit in hits))
    return _rounds(prompt, asked, hits, most)


def _alike(engine: Engine) -> list[tuple[Group, list[int], bool]]:
    """Groups that are looked up together, full attention first."""
    found: dict[tuple[int, int, int], list[int]] = {}
    for i, group in enumerate(engine.groups):
        kind = group.effective_kind
        if kind != UNCACHED:
            window = group.window if kind in (WINDOW, LOCAL) else 0
            found.setdefault((kind, window, group.block), []).append(i)
    alike = [
        (Group(*spec), members, any(engine.drops_in(engine.groups[i]) for i in members))
        for spec, members in found.items()
    ]
    return sorted(alike, key=lambda entry: entry[0].kind != FULL)


def _rounds(
    prompt: Prompt, asked: list[tuple[Group, list[int], bool]], hits: list[_OnDevice], most: int
) -> int:
    """With dropped blocks: each group cuts the length in turn, until a round changes nothing."""
    length, done = most, set[int]()
    full: dict[int, int] = {}
    while True:
        current = length
        for i, (group, _, drops) in enumerate(asked):
            if i in full:
                current = min(current, full[i])
                continue
            drop = drops and i not in done
            limit = current
            if drop and group.kind != STATE:
                limit = min(current + group.block, prompt.whole)
            longest = hits[i].longest(limit, drop)
            if drop:
                done.add(i)
            elif longest < current:
                done.clear()
            current = longest
            if group.kind == FULL:
                full[i] = longest
        if current >= length:
            return length
        length = current
        if len(asked) == 2 and asked[0][0].kind == FULL:
            return length


class _OnDevice:
    """What groups of one kind, window and block size hold on the device."""

    def __init__(self, prompt: Prompt, group: Group, members: list[int], align: int) -> None:
        per_unit = group.block // prompt.block
        self.has = [
            all(prompt.held[i][last] & GPU for i in members)
            for last in range(per_unit - 1, prompt.whole // prompt.block, per_unit)
        ]
        self.group = group
        self.align = align

    def at(self, length: int, most: int) -> bool:
        """Whether the groups hit at this length, without a block to drop."""
        del most
        group, n = self.group, length // self.group.block
        if length == 0 or n > len(self.has):
            return length == 0
        if group.kind == STATE:
            return self.has[n - 1]
        if group.kind == LOCAL:
            return all(self.has[length // group.window * group.window // group.block : n])
        if group.kind == WINDOW:
            needed = max(-(-(group.window - 1) // group.block), 1)
            return all(self.has[max(n - needed, 0) : n])
        return all(self.has[:n])

    def longest(self, most: int, drop: bool) -> int:
        group = self.group
        units = [n for n in range(most // group.block + 1) if n <= len(self.has)]
        if group.kind == LOCAL:
            return self._down(max(n for n in units if self._local(n, most)))
        if group.kind == STATE or not drop:
            return max(n * group.block for n in units if self._aligned(n) and self.at(n * group.block, most))
        if group.kind == FULL:
            return self._down(max(max(n for n in units if all(self.has[:n])) - 1, 0))
        needed = -(-(group.window - 1) // group.block) + 1
        inside = [n for n in units if n >= needed and self._aligned(n - 1) and all(self.has[n - needed : n])]
        # A run that reaches the start is first cut to the common block size, then drops its block.
        # It ends one block behind a common boundary, and counts only where nothing longer does.
        heads = [n for n in units if 0 < n < needed and self._aligned(n - 1) and all(self.has[:n])]
        if inside:
            return (max(inside) - 1) * group.block
        if not heads:
            return 0
        cut = self._down(max(heads)) // group.block
        return self._down(max(cut - 1, 0))

    def _local(self, n: int, most: int) -> bool:
        start = most // self.group.window * self.group.window // self.group.block
        return n >= start and all(self.has[start:n])

    def _aligned(self, n: int) -> bool:
        return n * self.group.block % self.align == 0

    def _down(self, n: int) -> int:
        tokens = n * self.group.block
        return tokens - tokens % self.align


# What lies behind it.


class Connector:
    """Asks all groups for chunks, from the one that holds the device's end."""

    def __init__(self, engine: Engine, prompt: Prompt, begin: int) -> None:
        self.engine, self.prompt, self.begin = engine, prompt, begin
        kinds = [group.effective_kind for group in engine.groups]
        self.windowed = any(kind not in (FULL, UNCACHED) for kind in kinds)
        self.full = [i for i, kind in enumerate(kinds) if kind == FULL]
        others = [i for i, kind in enumerate(kinds) if kind not in (FULL, UNCACHED)]
        self.others = sorted(others, key=self._needed, reverse=True)

    def tokens(self) -> int:
        end = self.prompt.tokens - self.windowed
        for i in self.others:
            if self.engine.groups[i].kind == STATE:
                end -= end % self._chunk(i)
        found, popped, asked = 0, set[int](), self.full + self.others
        while asked:
            windows, asked_again = False, []
            for i in asked:
                chunk, group = self._chunk(i), self.engine.groups[i]
                pop = group.draft and i not in popped
                end = min(end, self.prompt.whole // chunk * chunk)
                if end - self.begin < chunk:
                    return 0
                n = self._hits(i, end, pop)
                if n == 0:
                    return 0
                if pop:
                    popped.add(i)
                end = min(end, (self.begin // chunk + n - pop) * chunk)
                if end - self.begin < chunk:
                    return 0
                if end - self.begin < found:
                    if not group.draft:
                        popped.clear()
                    if windows:
                        asked_again = self.others
                windows |= i in self.others
                found = end - self.begin
            asked = asked_again
        return found

    def tier(self, block: int) -> int:
        """The slowest group's best tier of the chunk that the block lies in."""
        bits = []
        for i in self.full or self.others:
            mask = self._masks(i)[block * self.prompt.block // self._chunk(i) :][:1]
            bits += [bit & -bit for bit in mask if bit]
        return max(bits, default=2)

    def _chunk(self, i: int) -> int:
        return self.engine.groups[i].block * self.engine.chunk_blocks

    def _masks(self, i: int) -> list[int]:
        per_chunk = self._chunk(i) // self.prompt.block
        last = range(per_chunk - 1, self.prompt.whole // self.prompt.block, per_chunk)
        stored = [0] * len(self.prompt.stored) if self.windowed else self.prompt.stored
        return [(self.prompt.held[i][block] | stored[block]) & BEHIND for block in last]

    def _needed(self, i: int) -> int:
        group = self.engine.groups[i]
        return 1 if group.kind == STATE else -(-group.window // self._chunk(i))

    def _hits(self, i: int, end: int, pop: bool) -> int:
        chunk, masks = self._chunk(i), self._masks(i)
        limit = min(end + chunk * pop, len(masks) * chunk)
        last = min(-(-limit // chunk), len(masks))
        mine = [mask != 0 for mask in masks[self.begin // chunk : last]]
        if i in self.full:
            return [*mine, False].index(False)
        needed = self._needed(i) + pop
        first = needed
        if self.engine.groups[i].kind == WINDOW:
            right = min(end, (last - pop) * chunk)
            window = self.engine.groups[i].window - 1 + -right % chunk
            first = max(self._needed(i), -(-window // chunk)) + pop
        for stop in range(len(mine), 0, -1):
            want = first if all(mine[stop:]) else needed
            if want <= stop and all(mine[stop - want : stop]) and (stop == len(mine) or not mine[stop]):
                return stop
        return [*mine, False].index(False)
