"""Which blocks a request of the simulated model server reuses, gets and fills, group by group.

Groups that need only the end of what was computed give blocks back as a request goes on; with a
retention interval they cache only those that can serve a hit at a multiple of the interval, at the
prompt's end, or where another prompt branched off.
Source: behaviour of vLLM 0.32.
"""

from __future__ import annotations

from kvatlas.ingest.simulator.block_pool import NULL_BLOCK, BlockPool, OutOfBlocksError
from kvatlas.ingest.simulator.cache_groups import EngineGroup, GroupLayout
from kvatlas.ingest.simulator.event_encoder import GPU, WireBlockStored
from kvatlas.ingest.simulator.prefix_lookup import PrefixHit, PrefixLookup
from kvatlas.ingest.simulator.request import SimulatedRequest


class PrefixCache:
    """The block tables of all requests over one pool."""

    def __init__(self, pool: BlockPool, layout: GroupLayout) -> None:
        self._pool = pool
        self._groups = layout.groups
        self._lookup = PrefixLookup(pool, layout)

    def longest_hit(self, request: SimulatedRequest) -> PrefixHit:
        """The longest prefix that every group can serve; one token at least is left to compute."""
        return self._lookup.longest_hit(request.prompt_digests, request.prompt_tokens)

    def admit(self, request: SimulatedRequest, hit: PrefixHit, tokens: int) -> None:
        """Takes the hit's blocks for a request that will need `tokens` slots.

        Raises OutOfBlocksError, and changes nothing, when the rest of them would not fit.
        """
        skipped = [group.skipped_blocks(hit.tokens) for group in self._groups]
        needed = 0
        for group in self._groups:
            reused = hit.blocks[group.number]
            slots = -(-tokens // group.block_size)
            needed += max(slots - max(skipped[group.number], len(reused)), 0)
            needed += self._pool.idle(reused[skipped[group.number] :])
        if needed > self._pool.free_blocks:
            raise OutOfBlocksError(
                f"request of {tokens} tokens: expected {needed} free blocks, got {self._pool.free_blocks}"
            )
        request.shared_prefix_tokens = hit.shared_prefix_tokens
        for group in self._groups:
            number = group.number
            used = hit.blocks[number][skipped[number] :]
            self._pool.touch(used)
            request.tables.append([NULL_BLOCK] * skipped[number] + used)
            request.cached_blocks.append(len(request.tables[number]))

    def extend(self, request: SimulatedRequest, tokens: int) -> None:
        """Gives an admitted request slots for its first `tokens` tokens.

        Raises OutOfBlocksError, and hands out nothing, when they are not there.
        """
        for group in self._groups:
            self._leave_behind(request, group)
        slots = [-(-tokens // group.block_size) for group in self._groups]
        missing = [max(slots[g] - len(table), 0) for g, table in enumerate(request.tables)]
        if sum(missing) > self._pool.free_blocks:
            raise OutOfBlocksError(
                f"request at {tokens} tokens: expected {sum(missing)} free blocks, "
                f"got {self._pool.free_blocks}"
            )
        for table, count in zip(request.tables, missing, strict=True):
            table.extend(self._pool.allocate(count))

    def commit(self, request: SimulatedRequest, tokens: int) -> None:
        """The first `tokens` tokens are computed: newly full blocks are cached and announced."""
        for group in self._groups:
            first, full = request.cached_blocks[group.number], group.cacheable_blocks(tokens)
            if full <= first:
                continue
            table = request.tables[group.number]
            kept = [
                position
                for position in range(first, full)
                if table[position] != NULL_BLOCK
                and group.keeps(position, request.prompt_tokens, request.shared_prefix_tokens)
            ]
            for position in kept:
                self._pool.hold(table[position], group.digest(request.digests, position), group.number)
            self._announce(request, group, first, full, kept)
            request.cached_blocks[group.number] = full

    def report(self, request: SimulatedRequest, hit: PrefixHit) -> None:
        """Announces the reused blocks again, from the chain's start; nothing else changes.

        Every group names all positions, also those that it does not hold.
        """
        for group in self._groups:
            count = len(hit.blocks[group.number])
            if count:
                self._announce(request, group, 0, count, list(range(count)))

    def free(self, request: SimulatedRequest) -> None:
        """Releases all blocks, each chain's tail first."""
        for table in request.tables:
            self._pool.release(table[::-1])
        request.tables.clear()

    def _announce(
        self, request: SimulatedRequest, group: EngineGroup, first: int, end: int, kept: list[int]
    ) -> None:
        size, digests = group.block_size, request.digests
        name = self._pool.name
        self._pool.events.append(
            WireBlockStored(
                block_hashes=[name(group.digest(digests, position)) for position in kept],
                parent_block_hash=name(group.digest(digests, first - 1)) if first else None,
                token_ids=request.token_ids[first * size : end * size],
                block_size=size,
                lora_id=request.lora_id,
                medium=GPU,
                lora_name=request.lora,
                extra_keys=[request.extra_keys(position, group.scale) for position in kept] or None,
                group_idx=group.number,
                kv_cache_spec_kind=group.kind,
                kv_cache_spec_sliding_window=group.window_tokens if group.kind == "sliding_window" else None,
            )
        )

    def _leave_behind(self, request: SimulatedRequest, group: EngineGroup) -> None:
        """Gives back what the next token no longer needs."""
        table = request.tables[group.number]
        skipped = min(group.skipped_blocks(request.computed_tokens), len(table))
        left: list[int] = []
        for position in reversed(range(skipped)):
            if table[position] == NULL_BLOCK:
                break
            left.append(table[position])
            table[position] = NULL_BLOCK
        self._pool.release(left)
