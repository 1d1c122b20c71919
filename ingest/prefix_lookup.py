"""How a simulated engine finds the longest prefix that all of its groups can serve.

Each group in turn cuts the candidate length to its own longest hit; full attention comes first, for
what it holds only becomes shorter. That goes on until a round changes nothing. A group with a
speculative decoder looks one block further and drops it, once for each candidate.
Source: behaviour of vLLM 0.32, its managers' lookups and their coordinator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kvatlas.ingest.block_pool import NULL_BLOCK, BlockPool
from kvatlas.ingest.cache_groups import EngineGroup, GroupLayout


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
        self._order = sorted(layout.groups, key=lambda group: not group.is_full)

    def longest_hit(self, digests: Sequence[bytes], prompt_tokens: int) -> PrefixHit:
        """`digests` are of the prompt's full blocks; one token at least is left to compute."""
        most = prompt_tokens - 1
        if len(self._order) == 1:
            found = self._find(self._order[0], digests, most, self._order[0].drops)
            return PrefixHit(len(found) * self._layout.block_size, [found], 0)
        return self._reconciled(digests, most)

    def _reconciled(self, digests: Sequence[bytes], most: int) -> PrefixHit:
        end = len(digests) * self._layout.block_size
        blocks: dict[int, list[int]] = {}
        verified: set[int] = set()
        length, longest = most, 0
        while True:
            current = length
            for group in self._order:
                number = group.number
                if group.is_full and number in blocks:
                    current = min(current, len(blocks[number]) * group.block_size)
                    continue
                drop = group.drops and number not in verified
                limit = current
                if drop and group.kind != "mamba":
                    limit = min(current + group.block_size, end)
                blocks[number] = self._find(group, digests, limit, drop)
                tokens = len(blocks[number]) * group.block_size
                if drop:
                    verified.add(number)
                elif tokens < current:
                    verified.clear()
                current = tokens
                longest = max(longest, current)
            if current >= length:
                break
            length = current
        found = [blocks[group.number][: length // group.block_size] for group in self._layout.groups]
        return PrefixHit(length, found, longest if longest > length else 0)

    def _find(self, group: EngineGroup, digests: Sequence[bytes], limit: int, drop: bool) -> list[int]:
        """The group's longest hit of at most `limit` tokens: the block of each position."""
        positions = limit // group.block_size
        if group.kind == "sliding_window":
            return self._find_window(group, digests, positions, drop)
        if group.kind == "mamba":
            return self._find_state(group, digests, positions)
        skipped = group.skipped_blocks(limit)
        found = [NULL_BLOCK] * skipped
        for position in range(skipped, positions):
            block = self._pool.find(group.digest(digests, position), group.number)
            if block is None:
                break
            found.append(block)
        return self._aligned(group, found[:-1] if drop else found)

    def _find_window(
        self, group: EngineGroup, digests: Sequence[bytes], positions: int, drop: bool
    ) -> list[int]:
        """The last run of blocks that fills the window, searched from the end."""
        needed = group.blocks_for_a_hit(drop=drop)
        found = [NULL_BLOCK] * positions
        run = 0
        for position in reversed(range(positions)):
            block = self._pool.find(group.digest(digests, position), group.number)
            if block is None:
                run = 0
                continue
            if run == 0 and (position + 1 - drop) * group.block_size % self._layout.alignment:
                continue
            found[position] = block
            run += 1
            if run >= needed:
                return self._aligned(group, found[: position + run - drop])
        # A run that reaches the start of the prompt needs no more than it has.
        head = self._aligned(group, found[:run])
        return self._aligned(group, head[:-1] if drop else head)

    def _find_state(self, group: EngineGroup, digests: Sequence[bytes], positions: int) -> list[int]:
        for end in range(positions, 0, -1):
            if end * group.block_size % self._layout.alignment == 0:
                block = self._pool.find(group.digest(digests, end - 1), group.number)
                if block is not None:
                    return [NULL_BLOCK] * (end - 1) + [block]
        return []

    def _aligned(self, group: EngineGroup, found: list[int]) -> list[int]:
        per_step = self._layout.alignment // group.block_size
        return found[: len(found) // per_step * per_step]
