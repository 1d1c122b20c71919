"""Blocks of a prefix cache on one device, handed out and evicted in vLLM's order.

A part of the simulated model server, usable without it:

    free queue, head first:  [unhashed, last freed first | hashed, least recently used first]

A block is *held* while it carries a hash, whether a request uses it or it waits in the free queue;
it is evicted only when it is handed out again. Equal content may be held in several blocks.
Source: behaviour of vLLM 0.32.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from kvatlas.index.errors import ConfigError, KvatlasError
from kvatlas.ingest.simulator.event_encoder import (
    GPU,
    EngineHash,
    WireAllBlocksCleared,
    WireBlockRemoved,
    WireEvent,
)
from kvatlas.ingest.simulator.request import engine_hash

NULL_BLOCK = 0
"""Stands where a request needs no block; never handed out, never cached."""

_Held = tuple[bytes, int]


class OutOfBlocksError(KvatlasError):
    """Every block is in use by a request; a real server would let the request wait."""


class BlockPoolStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """How full the pool is, in blocks."""

    blocks: int
    """That can be handed out."""
    free: int
    """Not used by a request; many of them still hold their content."""
    held: int
    """With a hash."""
    evictions: int
    """Since the start."""


class BlockPool:
    """`blocks` numbered blocks, one of which is the null block.

    Not safe to call from several threads at once.
    Raises ConfigError when there are fewer than two blocks.
    """

    def __init__(self, blocks: int, *, hashes_as_bytes: bool = False, medium: str = GPU) -> None:
        if blocks < 2:
            raise ConfigError(f"blocks: expected at least 2, got {blocks}")
        self.events: list[WireEvent] = []
        """What has happened since they were last taken, in order."""
        self._medium = medium
        self._hashes_as_bytes = hashes_as_bytes
        self._references = [0] * blocks
        self._held_in: list[_Held | None] = [None] * blocks
        self._copies: dict[_Held, list[int]] = {}
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(1, blocks))
        self._evictions = 0

    @property
    def free_blocks(self) -> int:
        """How many blocks can be handed out."""
        return len(self._free)

    def name(self, digest: bytes) -> EngineHash:
        """A digest as events name it."""
        return digest if self._hashes_as_bytes else engine_hash(digest)

    def find(self, digest: bytes, group: int = 0) -> int | None:
        """The oldest block that holds this content."""
        copies = self._copies.get((digest, group))
        return copies[0] if copies else None

    def is_held(self, block: int) -> bool:
        return self._held_in[block] is not None

    def idle(self, blocks: Iterable[int]) -> int:
        """Counts those that no request uses: using them takes them out of the free queue."""
        return sum(1 for block in blocks if block in self._free)

    def touch(self, blocks: Iterable[int]) -> None:
        """A request uses blocks that are held: they cannot be evicted until it frees them."""
        for block in blocks:
            if block == NULL_BLOCK:
                continue
            if self._references[block] == 0:
                del self._free[block]
            self._references[block] += 1

    def allocate(self, count: int) -> list[int]:
        """Hands out the head of the free queue; what those blocks held is announced as removed.

        Raises OutOfBlocksError, and changes nothing, when fewer are free.
        """
        if count > len(self._free):
            raise OutOfBlocksError(
                f"blocks: expected {count} free of {len(self._references) - 1}, got {len(self._free)}"
            )
        taken = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in taken:
            self._references[block] = 1
            self._evict(block)
        return taken

    def hold(self, block: int, digest: bytes, group: int = 0) -> None:
        """From now on the block's content can be found by its digest.

        REQUIRES: the block is in use and holds nothing yet.
        """
        assert self._references[block] > 0
        assert self._held_in[block] is None
        held = (digest, group)
        self._held_in[block] = held
        self._copies.setdefault(held, []).append(block)

    def release(self, blocks: Sequence[int]) -> None:
        """A request stops using blocks, given in the order in which they may be evicted.

        Blocks that hold nothing go to the head of the free queue, the others to its end.
        """
        first: list[int] = []
        for block in blocks:
            if block == NULL_BLOCK:
                continue
            self._references[block] -= 1
            assert self._references[block] >= 0
            if self._references[block] == 0:
                if self._held_in[block] is None:
                    first.append(block)
                else:
                    self._free[block] = None
        for block in reversed(first):
            self._free[block] = None
            self._free.move_to_end(block, last=False)

    def clear(self) -> bool:
        """Forgets all content; False, and nothing happens, while a request uses any block."""
        if len(self._free) < len(self._references) - 1:
            return False
        self._copies.clear()
        self._held_in = [None] * len(self._references)
        self.events.append(WireAllBlocksCleared())
        return True

    def take_events(self) -> list[WireEvent]:
        """Hands over the events so far and starts a new list."""
        events, self.events = self.events, []
        return events

    def held(self) -> Iterator[tuple[int, int, int]]:
        """Everything that is held: (engine hash, group, copies)."""
        for (digest, group), copies in self._copies.items():
            yield engine_hash(digest), group, len(copies)

    def statistics(self) -> BlockPoolStatistics:
        return BlockPoolStatistics(
            blocks=len(self._references) - 1,
            free=len(self._free),
            held=sum(len(copies) for copies in self._copies.values()),
            evictions=self._evictions,
        )

    def _evict(self, block: int) -> None:
        held = self._held_in[block]
        if held is None:
            return
        self._held_in[block] = None
        copies = self._copies[held]
        copies.remove(block)
        if not copies:
            del self._copies[held]
        digest, group = held
        self._evictions += 1
        self.events.append(
            WireBlockRemoved(block_hashes=[self.name(digest)], medium=self._medium, group_idx=group)
        )
