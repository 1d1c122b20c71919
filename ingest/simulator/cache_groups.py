"""The KV-cache groups of a simulated engine: what each keeps of a request, and for which hits.

    kind                      a request needs                     what is dropped as it goes on
    full_attention            every block                         nothing
    sliding_window            the last window_tokens - 1 tokens   blocks that the window has left
    chunked_local_attention   from the last multiple of           blocks of earlier chunks
                              window_tokens
    mamba                     the state at its end                all states but the last

Source: behaviour of vLLM 0.32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from kvatlas.index.errors import ConfigError

Kind = Literal["full_attention", "sliding_window", "chunked_local_attention", "mamba"]


class CacheGroup(msgspec.Struct, frozen=True, kw_only=True):
    """One group of an engine. Raises ConfigError where its values do not fit together."""

    kind: Kind = "full_attention"
    window_tokens: int = 0
    """Of the window, or of a local chunk; 0 for the other kinds."""
    block_size: int = 0
    """Tokens, a multiple of the engine's block size; 0: equal to it."""
    is_draft: bool = False
    """It holds the layers of a speculative decoder."""

    def __post_init__(self) -> None:
        windowed = self.kind in ("sliding_window", "chunked_local_attention")
        if self.window_tokens < 2 * windowed or (self.window_tokens and not windowed):
            expected = "at least 2" if windowed else f"0 for {self.kind}"
            raise ConfigError(f"window_tokens: expected {expected}, got {self.window_tokens}")

    @property
    def is_full(self) -> bool:
        return self.kind == "full_attention"


class EngineGroup:
    """One group in the company of the others."""

    def __init__(self, group: CacheGroup, number: int, layout: GroupLayout) -> None:
        self.kind = group.kind
        self.is_full = group.is_full
        self.number = number
        self.window_tokens = group.window_tokens
        self.block_size = group.block_size or layout.block_size
        self.scale = self.block_size // layout.block_size
        """Digests, one for each of the engine's blocks, in a block of this group."""
        self.drops = group.is_draft if layout.has_draft else layout.drops_matched_block
        self._layout = layout

    @property
    def likeness(self) -> tuple[str, int, int]:
        """What groups that are looked up together have in common."""
        return self.kind, self.window_tokens, self.block_size

    def digest(self, digests: Sequence[bytes], position: int) -> bytes:
        """The name of a block: of the last of the engine's blocks in it, which is chained to the rest."""
        return digests[(position + 1) * self.scale - 1]

    def blocks_for_a_hit(self, *, drop: bool) -> int:
        """A sliding window's: contiguous blocks before the hit's end, with the one to drop."""
        return -(-(self.window_tokens - 1) // self.block_size) + drop

    def skipped_blocks(self, computed_tokens: int) -> int:
        """Leading blocks that lie wholly outside of what the next token needs."""
        tokens = 0
        if self.kind == "sliding_window":
            tokens = max(0, computed_tokens - self.window_tokens + 1)
        elif self.kind == "chunked_local_attention":
            tokens = computed_tokens // self.window_tokens * self.window_tokens
        elif self.kind == "mamba":
            tokens = max(0, computed_tokens - 1)
        return tokens // self.block_size

    def cacheable_blocks(self, computed_tokens: int) -> int:
        """How many leading blocks a hit could ever use, of those that are full."""
        layout = self._layout
        if len(layout.groups) == 1:
            return computed_tokens // self.block_size
        tokens = computed_tokens // layout.alignment * layout.alignment
        if self.drops and tokens:
            tokens = min(computed_tokens, tokens + self.block_size)
        return tokens // self.block_size

    def keeps(self, position: int, prompt_tokens: int, shared_prefix_tokens: int) -> bool:
        """Whether the block can ever serve a hit of its group."""
        boundaries = self._layout.replay_boundaries(prompt_tokens)
        if shared_prefix_tokens:
            boundaries.append(shared_prefix_tokens)
        if self.kind == "sliding_window":
            return self._keeps_window(position, boundaries)
        if self.kind == "mamba" and self._layout.retention_tokens is not None:
            return self._keeps_state(position, self._layout.retention_tokens, boundaries)
        return True

    def _keeps_window(self, position: int, boundaries: list[int]) -> bool:
        alignment, retention = self._layout.alignment, self._layout.retention_tokens
        needed = self.blocks_for_a_hit(drop=self.drops)
        segment = (alignment if retention is None else retention) // self.block_size
        if segment:
            shifted = position - self.drops
            if needed >= segment or (shifted >= 0 and shifted % segment >= segment - needed):
                return True
        if retention is None:
            return False
        ends = [tokens // alignment * alignment // self.block_size + self.drops for tokens in boundaries]
        return any(end - needed <= position < end for end in ends)

    def _keeps_state(self, position: int, retention_tokens: int, boundaries: list[int]) -> bool:
        alignment = self._layout.alignment
        segment = retention_tokens // self.block_size
        if segment and (position + 1) % segment == 0:
            return True
        return any(
            tokens // alignment * alignment // self.block_size - 1 == position for tokens in boundaries
        )


class GroupLayout:
    """All groups of an engine. Raises ConfigError where they do not fit together."""

    def __init__(
        self,
        groups: Sequence[CacheGroup],
        *,
        block_size: int,
        retention_tokens: int | None,
        drops_matched_block: bool,
    ) -> None:
        self.block_size = block_size
        self.retention_tokens = retention_tokens
        self.drops_matched_block = drops_matched_block
        self.has_draft = any(group.is_draft for group in groups)
        self.alignment = math.lcm(*(group.block_size or block_size for group in groups))
        """Tokens; the groups' common block size: hits are multiples of it."""
        self.groups = [EngineGroup(group, number, self) for number, group in enumerate(groups)]
        for group in self.groups:  # groups that are alike are looked up as one, and drop as one
            group.drops = any(other.drops for other in self.groups if other.likeness == group.likeness)
        self._check(groups)

    @property
    def drops_any(self) -> bool:
        return self.has_draft or self.drops_matched_block

    def replay_boundaries(self, prompt_tokens: int) -> list[int]:
        """Where another request with this prompt, or with a longer one, could go on."""
        if not self.drops_any:
            return [prompt_tokens - 1]
        step = self.alignment
        ends = {(prompt_tokens - 1) // step * step, prompt_tokens // step * step}
        return sorted({max(end - step, 0) for end in ends})

    def _check(self, groups: Sequence[CacheGroup]) -> None:
        sizes = {group.block_size for group in self.groups}
        alone_and_larger = len(groups) == 1 and sizes != {self.block_size}
        if alone_and_larger or any(size % self.block_size for size in sizes):
            raise ConfigError(
                f"groups: expected block sizes that are multiples of {self.block_size}, "
                f"of one group equal to it, got {sorted(sizes)}"
            )
        local = any(group.kind == "chunked_local_attention" for group in groups)
        if local and (self.drops_any or len(sizes) > 1):
            raise ConfigError("groups: expected no speculative decoder and one block size with local chunks")
        retention = self.retention_tokens
        sparse = any(group.kind in ("sliding_window", "mamba") for group in groups)
        if retention is not None and (not sparse or retention < 0 or retention % self.alignment):
            raise ConfigError(
                "retention_tokens: expected a multiple of the common block size and a window_tokens "
                f"or state group, got {retention}"
            )
