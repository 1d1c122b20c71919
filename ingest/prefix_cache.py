"""Which blocks a request of the simulated model server reuses, gets and fills, group by group.

Group 0 is full attention and keeps every block. With a sliding window there is a group 1, whose
blocks leave a request as the window moves on; with a retention interval only those blocks are
cached that can serve a hit at a multiple of the interval, at the prompt's end, or where another
prompt branched off.
Source: behaviour of vLLM 0.32, groups with equal block sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvatlas.index.errors import ConfigError
from kvatlas.ingest.block_pool import NULL_BLOCK, BlockPool, OutOfBlocksError
from kvatlas.ingest.event_encoder import GPU, WireBlockStored
from kvatlas.ingest.simulated_request import SimulatedRequest

FULL, WINDOW = 0, 1


@dataclass(frozen=True, slots=True)
class PrefixHit:
    """What of a prompt is held on the device."""

    tokens: int
    blocks: list[list[int]]
    """Per group, the block of each position; the null block where the group needs none."""
    shared_prefix_tokens: int
    """The longer hit of the full group, where the window's cut it short; or 0."""


class PrefixCache:
    """The block tables of all requests over one pool.

    `window_tokens` adds the sliding-window group; `retention_tokens`, a multiple of the block size
    or 0, makes it keep only some blocks.
    Raises ConfigError on sizes that do not fit.
    """

    def __init__(
        self,
        pool: BlockPool,
        *,
        block_size: int,
        window_tokens: int | None = None,
        retention_tokens: int | None = None,
    ) -> None:
        if window_tokens is not None and window_tokens < 2:
            raise ConfigError(f"window_tokens: expected at least 2, got {window_tokens}")
        if retention_tokens is not None and (
            window_tokens is None or retention_tokens < 0 or retention_tokens % block_size
        ):
            raise ConfigError(
                "retention_tokens: expected a multiple of the block size and a window_tokens, "
                f"got {retention_tokens}"
            )
        self._pool = pool
        self._block_size = block_size
        self._window_tokens = window_tokens
        self._retention_tokens = retention_tokens
        self._groups = (FULL,) if window_tokens is None else (FULL, WINDOW)
        self._window_blocks = -(-((window_tokens or 1) - 1) // block_size)

    def longest_hit(self, request: SimulatedRequest) -> PrefixHit:
        """The longest prefix that every group can serve; one token at least is left to compute."""
        positions = (len(request.token_ids) - 1) // self._block_size
        full: list[int] = []
        for digest in request.digests[:positions]:
            block = self._pool.find(digest, FULL)
            if block is None:
                break
            full.append(block)
        if len(self._groups) == 1:
            return PrefixHit(len(full) * self._block_size, [full], 0)
        window = self._window_hit(request.digests[: len(full)])
        longer = len(full) * self._block_size if len(window) < len(full) else 0
        return PrefixHit(len(window) * self._block_size, [full[: len(window)], window], longer)

    def admit(self, request: SimulatedRequest, hit: PrefixHit, tokens: int) -> None:
        """Takes the hit's blocks for a request that will need `tokens` slots.

        Raises OutOfBlocksError, and changes nothing, when the rest of them would not fit.
        """
        slots = -(-tokens // self._block_size)
        skipped = [self._skipped_blocks(group, hit.tokens) for group in self._groups]
        needed = 0
        for group in self._groups:
            reused = hit.blocks[group]
            needed += max(slots - max(skipped[group], len(reused)), 0)
            needed += self._pool.idle(reused[skipped[group] :])
        if needed > self._pool.free_blocks:
            raise OutOfBlocksError(
                f"request of {tokens} tokens: expected {needed} free blocks, got {self._pool.free_blocks}"
            )
        request.shared_prefix_tokens = hit.shared_prefix_tokens
        for group in self._groups:
            used = hit.blocks[group][skipped[group] :]
            self._pool.touch(used)
            request.tables.append([NULL_BLOCK] * skipped[group] + used)
            request.cached_blocks.append(len(request.tables[group]))

    def extend(self, request: SimulatedRequest, tokens: int) -> None:
        """Gives an admitted request slots for its first `tokens` tokens.

        Raises OutOfBlocksError, and hands out nothing, when they are not there.
        """
        slots = -(-tokens // self._block_size)
        if WINDOW in self._groups:
            self._leave_window(request)
        missing = [max(slots - len(table), 0) for table in request.tables]
        if sum(missing) > self._pool.free_blocks:
            raise OutOfBlocksError(
                f"request at {tokens} tokens: expected {sum(missing)} free blocks, "
                f"got {self._pool.free_blocks}"
            )
        for table, count in zip(request.tables, missing, strict=True):
            table.extend(self._pool.allocate(count))

    def commit(self, request: SimulatedRequest, tokens: int) -> None:
        """The first `tokens` tokens are computed: newly full blocks are cached and announced."""
        full = tokens // self._block_size
        for group in self._groups:
            first = request.cached_blocks[group]
            if full <= first:
                continue
            table = request.tables[group]
            kept = [
                position
                for position in range(first, full)
                if table[position] != NULL_BLOCK and self._is_kept(request, group, position)
            ]
            for position in kept:
                self._pool.hold(table[position], request.digests[position], group)
            self._announce(request, group, first, full, kept)
            request.cached_blocks[group] = full

    def report(self, request: SimulatedRequest, hit: PrefixHit) -> None:
        """Announces the reused blocks again, from the chain's start; nothing else changes.

        The window's group names all positions, also those that it does not hold.
        """
        for group in self._groups:
            if hit.blocks[group]:
                count = len(hit.blocks[group])
                self._announce(request, group, 0, count, list(range(count)))

    def free(self, request: SimulatedRequest) -> None:
        """Releases all blocks, each chain's tail first."""
        for table in request.tables:
            self._pool.release(table[::-1])
        request.tables.clear()

    def _announce(self, request: SimulatedRequest, group: int, first: int, end: int, kept: list[int]) -> None:
        size = self._block_size
        name = self._pool.name
        self._pool.events.append(
            WireBlockStored(
                block_hashes=[name(request.digests[position]) for position in kept],
                parent_block_hash=name(request.digests[first - 1]) if first else None,
                token_ids=request.token_ids[first * size : end * size],
                block_size=size,
                lora_id=request.lora_id,
                medium=GPU,
                lora_name=request.lora,
                extra_keys=[request.extra_keys(position) for position in kept] or None,
                group_idx=group,
                kv_cache_spec_kind="sliding_window" if group == WINDOW else "full_attention",
                kv_cache_spec_sliding_window=self._window_tokens if group == WINDOW else None,
            )
        )

    def _window_hit(self, digests: list[bytes]) -> list[int]:
        """The last run of blocks that fills the window, searched from the end."""
        found = [NULL_BLOCK] * len(digests)
        run = 0
        for position in reversed(range(len(digests))):
            block = self._pool.find(digests[position], WINDOW)
            run = 0 if block is None else run + 1
            if block is not None:
                found[position] = block
            if run >= self._window_blocks:
                return found[: position + run]
        # A run that reaches the start of the prompt needs no more than it has.
        return found[:run]

    def _skipped_blocks(self, group: int, computed_tokens: int) -> int:
        """Leading blocks that lie wholly outside of what the next token attends to."""
        if group == FULL or self._window_tokens is None:
            return 0
        return max(0, computed_tokens - self._window_tokens + 1) // self._block_size

    def _leave_window(self, request: SimulatedRequest) -> None:
        table = request.tables[WINDOW]
        skipped = min(self._skipped_blocks(WINDOW, request.computed_tokens), len(table))
        left: list[int] = []
        for position in reversed(range(skipped)):
            if table[position] == NULL_BLOCK:
                break
            left.append(table[position])
            table[position] = NULL_BLOCK
        self._pool.release(left)

    def _is_kept(self, request: SimulatedRequest, group: int, position: int) -> bool:
        """Whether the block can ever serve a hit of its group."""
        interval = self._retention_tokens
        if group == FULL or interval is None:
            return True
        per_interval = interval // self._block_size
        if interval and position % per_interval >= per_interval - self._window_blocks:
            return True
        for tokens in (request.prompt_tokens - 1, request.shared_prefix_tokens):
            end = tokens // self._block_size
            if end - self._window_blocks <= position < end:
                return True
        return False
