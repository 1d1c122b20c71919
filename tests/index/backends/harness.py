"""What the suite of all backends needs of one: how to make it, and what it cannot hold.

A flag that is not the default is a limit that the backend's own page documents.
"""

from __future__ import annotations

from typing import Protocol

from kvatlas.index.block_index import BlockIndex
from tests.models.table import TIER_BITS


class Harness(Protocol):
    """One kind of index. Made once for a module of tests; each test has an empty index of its own."""

    tiers: tuple[int, ...]
    """Tier bits that it tells apart."""
    keeps_closedness: bool
    """Whether a content says which lanes are closed under prefixes."""
    exports_instants: bool
    """Whether an export is of one instant while others write; else each block is of some moment of it."""
    replaces_at_once: bool
    """Whether who looks while lanes are replaced sees the old or the new; else some of both."""
    holds_segments: bool
    """Whether its content says which segments blocks lie in: else it fits those only that need not know."""
    needs_segments: bool
    """Whether a content that does not say so is refused."""

    histories: int
    """How many random ones are tried with it: few where each costs seconds."""

    def make(self) -> BlockIndex:
        """An empty one; the caller closes it."""
        ...

    def close(self) -> None:
        """What `make` needed ends."""


class Exact:
    """The flags of a backend without limits."""

    tiers: tuple[int, ...] = TIER_BITS
    keeps_closedness: bool = True
    exports_instants: bool = True
    replaces_at_once: bool = True
    holds_segments: bool = True
    needs_segments: bool = True
    histories: int = 20
