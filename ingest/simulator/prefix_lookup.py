"""How a simulated engine finds the longest prefix that all of its groups can serve.

Each group in turn cuts the candidate length to its own longest hit; full attention comes first, for
what it holds only becomes shorter. That goes on until a round changes nothing. A group with a
speculative decoder looks one block further and drops it, once for each candidate. Groups that are
alike are looked up as one: what one of them lacks, all lack.
Source: behaviour of vLLM 0.32, its managers' lookups and their coordinator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kvatlas.ingest.simulator.block_pool import NULL_BLOCK, BlockPool
from kvatlas.ingest.simulator.cache_groups import EngineGroup, GroupLayout


@dataclass(frozen=True, slots=True)
class PrefixHit:
    """What of a prompt is held on the device."""

    tokens: int
    blocks: list[list[int]]
    """Per group, the block of each position; the null block where the group needs none."""
    shared_prefix_tokens: int
    """The longest hit of a single group, where others cut it short; or 0."""


class PrefixLookup:
    """Looks prompts up in one pool."""

    def __init__(self, pool: BlockPool, layout: GroupLayout) -> None:
        self._pool = pool
        self._layout = layout
        alike: dict[tuple[str, int, int], list[EngineGroup]] = {}
        for group in layout.groups:
            alike.setdefault(group.likeness, []).append(group)
        self._order = sorted(alike.values(), key=lambda members: not members[0].is_full)

    def longest_hit(self, digests: Sequence[bytes], prompt_tokens: int) -> PrefixHit:
        """`digests` are of the prompt's full blocks; one token at least is left to compute."""
        most, longest = prompt_tokens - 1, 0
        if len(self._layout.groups) == 1:
            members = self._order[0]
            used = [self._find(members, digests, most, members[0].drops)]
            length = len(used[0]) * self._layout.block_size
        else:
            length, longest, used = self._reconciled(digests, most)
        blocks: dict[int, list[int]] = {}
        for members, needs in zip(self._order, used, strict=True):
            for group in members:
                blocks[group.number] = self._blocks(group, digests, needs[: length // group.block_size])
        in_order = [blocks[group.number] for group in self._layout.groups]
        return PrefixHit(length, in_order, longest if longest > length else 0)

    def _reconciled(self, digests: Sequence[bytes], most: int) -> tuple[int, int, list[list[bool]]]:
        """The common length, the longest of one lookup, and what each lookup needs at each position."""
        end = len(digests) * self._layout.block_size
        used: dict[int, list[bool]] = {}
        verified: set[int] = set()
        length, longest = most, 0
        while True:
            current = length
            for i, members in enumerate(self._order):
                first = members[0]
                if first.is_full and i in used:
                    current = min(current, len(used[i]) * first.block_size)
                    continue
                drop = first.drops and i not in verified
                limit = current
                if drop and first.kind != "mamba":
                    limit = min(current + first.block_size, end)
                used[i] = self._find(members, digests, limit, drop)
                tokens = len(used[i]) * first.block_size
                if drop:
                    verified.add(i)
                elif tokens < current:
                    verified.clear()
                current = tokens
                longest = max(longest, current)
            if current >= length:
                return length, longest, [used[i] for i in range(len(self._order))]
            length = current

    def _find(
        self, members: list[EngineGroup], digests: Sequence[bytes], limit: int, drop: bool
    ) -> list[bool]:
        """The longest hit of at most `limit` tokens: whether it needs a block at each position."""
        group = members[0]
        positions = limit // group.block_size
        if group.kind == "sliding_window":
            return self._find_window(members, digests, positions, drop)
        if group.kind == "mamba":
            return self._find_state(members, digests, positions)
        needs = [False] * group.skipped_blocks(limit)
        while len(needs) < positions and self._holds(members, digests, len(needs)):
            needs.append(True)
        return self._aligned(group, needs[:-1] if drop else needs)

    def _find_window(
        self, members: list[EngineGroup], digests: Sequence[bytes], positions: int, drop: bool
    ) -> list[bool]:
        """The last run of blocks that fills the window, searched from the end."""
        group = members[0]
        needed = group.blocks_for_a_hit(drop=drop)
        needs = [False] * positions
        run = 0
        for position in reversed(range(positions)):
            if not self._holds(members, digests, position):
                run = 0
                continue
            if run == 0 and (position + 1 - drop) * group.block_size % self._layout.alignment:
                continue
            needs[position] = True
            run += 1
            if run >= needed:
                return self._aligned(group, needs[: position + run - drop])
        # A run that reaches the start of the prompt needs no more than it has.
        head = self._aligned(group, needs[:run])
        return self._aligned(group, head[:-1] if drop else head)

    def _find_state(self, members: list[EngineGroup], digests: Sequence[bytes], positions: int) -> list[bool]:
        for end in range(positions, 0, -1):
            aligned = end * members[0].block_size % self._layout.alignment == 0
            if aligned and self._holds(members, digests, end - 1):
                return [False] * (end - 1) + [True]
        return []

    def _holds(self, members: list[EngineGroup], digests: Sequence[bytes], position: int) -> bool:
        names = ((group.digest(digests, position), group.number) for group in members)
        return all(self._pool.find(digest, number) is not None for digest, number in names)

    def _blocks(self, group: EngineGroup, digests: Sequence[bytes], needs: list[bool]) -> list[int]:
        found = []
        for position, is_needed in enumerate(needs):
            block = self._pool.find(group.digest(digests, position), group.number) if is_needed else None
            found.append(NULL_BLOCK if block is None else block)
        return found

    def _aligned(self, group: EngineGroup, needs: list[bool]) -> list[bool]:
        per_step = self._layout.alignment // group.block_size
        return needs[: len(needs) // per_step * per_step]
