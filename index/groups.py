"""What a worker's cache consists of, for matching: its KV-cache groups and how each is reused."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class GroupKind(IntEnum):
    """What a group needs of a prompt's blocks to go on behind them."""

    FULL = 0
    """Every block from the first."""
    SLIDING_WINDOW = 1
    """The blocks of the last `window_tokens` - 1 tokens."""
    CHUNKED_LOCAL = 2
    """The blocks since the last multiple of `window_tokens`."""
    STATE = 3
    """The state stored exactly at the end."""
    UNCACHED = 4
    """Nothing: it is not cached by prefix and takes no part."""

    @classmethod
    def of(cls, spec_kind: str | None) -> GroupKind:
        """The kind that an event's `kv_cache_spec_kind` names; one we do not know needs every block."""
        return _KINDS.get(spec_kind or "", cls.FULL)


_KINDS = {
    "sliding_window": GroupKind.SLIDING_WINDOW,
    "sliding_window_mla": GroupKind.SLIDING_WINDOW,
    "chunked_local_attention": GroupKind.CHUNKED_LOCAL,
    "mamba": GroupKind.STATE,
    "encoder_only_attention": GroupKind.UNCACHED,
    "cross_attention": GroupKind.UNCACHED,
}


class Group(NamedTuple):
    """One KV-cache group of a worker."""

    lane: int
    kind: GroupKind = GroupKind.FULL
    window_tokens: int = 0
    """Of a sliding window, or of the chunks of chunked local attention. 0: unknown, and every block is
    taken to be needed."""
    block_size_tokens: int = 0
    """Of the engine. 0: the index's."""
    is_draft: bool = False
    """It holds the layers of a speculative decoder that drops the last matched block (EAGLE, MTP)."""
