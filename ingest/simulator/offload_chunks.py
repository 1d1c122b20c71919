"""Chunks of blocks behind the simulated model server's device: what events say of them, and the
storage that servers share.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kvatlas.index.errors import ConfigError
from kvatlas.ingest.simulator.event_encoder import (
    STORAGE,
    EngineHash,
    WireBlockRemoved,
    WireBlockStored,
)
from kvatlas.ingest.simulator.request import engine_hash


@dataclass(slots=True)
class Chunk:
    """Consecutive blocks of one chain that are moved together."""

    digests: list[bytes]
    parent: bytes | None = None
    """The block before the first one; None at the chain's start."""
    token_ids: list[int] = field(default_factory=list)
    lora_id: int | None = None
    lora: str | None = None
    described: bool = True
    """Events carry tokens and parent; else they are placeholders with the last hash only."""

    @property
    def key(self) -> bytes:
        """What the tiers know the chunk by."""
        return self.digests[-1]


class ChunkAnnouncer:
    """Turns chunks into events; never with extra keys, as vLLM leaves them out."""

    def __init__(self, *, name: Callable[[bytes], EngineHash], block_size: int, locality: str | None) -> None:
        self._name = name
        self._block_size = block_size
        self._locality = locality

    def stored(self, chunk: Chunk, medium: str) -> WireBlockStored:
        described = chunk.described
        return WireBlockStored(
            block_hashes=self._names(chunk),
            parent_block_hash=self._name(chunk.parent) if described and chunk.parent else None,
            token_ids=chunk.token_ids if described else [],
            block_size=self._block_size if described else 0,
            lora_id=chunk.lora_id if described else None,
            medium=medium,
            lora_name=chunk.lora if described else None,
            group_idx=0,
            kv_cache_spec_kind="full_attention" if described else None,
            locality=self._locality if medium == STORAGE else None,
        )

    def removed(self, chunks: Sequence[Chunk], medium: str) -> WireBlockRemoved:
        return WireBlockRemoved(
            block_hashes=[name for chunk in chunks for name in self._names(chunk)],
            medium=medium,
            group_idx=0,
            locality=self._locality if medium == STORAGE else None,
        )

    def _names(self, chunk: Chunk) -> list[EngineHash]:
        return [self._name(d) for d in (chunk.digests if chunk.described else [chunk.key])]


class SharedStorage:
    """Files that many servers write and read; one thread drives all of them.

    The server whose write makes others go announces their removal. It has no bound of its own
    unless `capacity_chunks` sets one.
    """

    def __init__(self, *, capacity_chunks: int | None = None, locality: str | None = "REMOTE") -> None:
        if capacity_chunks is not None and capacity_chunks < 1:
            raise ConfigError(f"capacity_chunks: expected at least 1, got {capacity_chunks}")
        self.locality = locality
        self._capacity_chunks = capacity_chunks
        self._files: OrderedDict[bytes, list[bytes]] = OrderedDict()

    def __contains__(self, key: bytes) -> bool:
        return key in self._files

    def write(self, key: bytes, digests: list[bytes]) -> list[list[bytes]]:
        """Adds a chunk; returns the blocks of each chunk that had to go, oldest file first."""
        self._files[key] = digests
        removed: list[list[bytes]] = []
        while self._capacity_chunks is not None and len(self._files) > self._capacity_chunks:
            removed.append(self._files.popitem(last=False)[1])
        return removed

    def held(self) -> set[int]:
        """The engine hashes of all blocks in it."""
        return {engine_hash(digest) for digests in self._files.values() for digest in digests}
