"""What a simulated model server is like: the sizes and the ways of its caches."""

from __future__ import annotations

import msgspec

from kvatlas.index.errors import ConfigError
from kvatlas.ingest.simulator.cache_groups import CacheGroup, GroupLayout


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a simulated engine's caches are like; raises ConfigError where they do not fit together."""

    block_size: int = 16
    """Tokens, 1 to 4096."""
    blocks: int = 1024
    """On the device; one of them is the null block."""
    window_tokens: int | None = None
    """Adds a sliding-window group to one of full attention; in place of `groups`."""
    groups: tuple[CacheGroup, ...] = ()
    """In the order of their numbers. Empty: one of full attention."""
    retention_tokens: int | None = None
    """Window and state groups keep only what serves hits at multiples of this and at the prompt's end."""
    drops_matched_block: bool = False
    """A speculative decoder (EAGLE, MTP) has one matched block computed again: in the groups that are
    `is_draft`, else in all."""
    cpu_blocks: int = 0
    """Capacity of the CPU tier; 0: none."""
    chunk_blocks: int = 1
    """Blocks that the CPU tier and storage move together."""
    self_describing: bool = True
    """Events of these two carry tokens and parents; else they are placeholders."""
    block_hash_seed: str = ""
    """Engines of equal seeds name equal blocks alike, as vLLM's do by default."""
    hashes_as_bytes: bool = False
    """Events carry whole digests."""

    def __post_init__(self) -> None:
        if not 1 <= self.block_size <= 4096:
            raise ConfigError(f"block_size: expected 1 to 4096 tokens, got {self.block_size}")
        if self.groups and self.window_tokens is not None:
            raise ConfigError("window_tokens: expected None with groups; one of them says it")
        layout = self.layout()
        if self.cpu_blocks and len(layout.groups) > 1:
            raise ConfigError("cpu_blocks: expected 0 with several groups; one alone is offloaded")

    def layout(self) -> GroupLayout:
        """The engine's groups."""
        groups = self.groups or (CacheGroup(),)
        if self.window_tokens is not None:
            groups = (CacheGroup(), CacheGroup(kind="sliding_window", window_tokens=self.window_tokens))
        return GroupLayout(
            groups,
            block_size=self.block_size,
            retention_tokens=self.retention_tokens,
            drops_matched_block=self.drops_matched_block,
        )
