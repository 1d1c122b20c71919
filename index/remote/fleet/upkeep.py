"""What a reader does besides reading: it says which segments it uses, and asks what was dropped."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from kvatlas.index.errors import RemoteIndexError

_COUNT_EVERY = 10


class ServerBlocks(msgspec.Struct, frozen=True, kw_only=True):
    """What a server says of its index, for all who share it. Counts are since the index was made there."""

    blocks: int
    """Distinct blocks held, those of lanes that were emptied included until they are cleaned away."""
    evicted: int
    """Blocks dropped to keep `blocks_max`: what was used longest ago."""
    expired: int
    """Blocks dropped since nobody stored or read them for `ttl_s`."""
    vanished_segments: int
    """Segments (of up to 128 blocks) that the server itself, or somebody else, has removed: a
    `maxmemory-policy` other than noeviction."""


class KeptIndex(Protocol):
    """An index that wants to hear which segments are used: `RemoteIndex`."""

    def touch(self) -> None: ...
    def statistics(self) -> list[dict[str, Any]]: ...


class Upkeep:
    """One thread calls `step`; `server` is for any."""

    def __init__(self, index: KeptIndex, *, touches: bool, period_s: float) -> None:
        """`touches`: nobody else of this process says what it uses, as a writer does who tends the index."""
        self._index = index
        self._touches = touches
        self._period_s = period_s
        self._due_s = float("-inf")
        self._n_steps = 0
        self.server: ServerBlocks | None = None
        """As the server said last, each tenth period; None: not yet."""
        self.missed = 0
        """Steps that the server did not answer."""

    def step(self, now_s: float) -> None:
        """Do what is due, once a period. Never raises what the server does: the next step tries again."""
        if now_s < self._due_s:
            return
        self._due_s = now_s + self._period_s
        try:
            if self._touches:
                self._index.touch()
            if self._n_steps % _COUNT_EVERY == 0:
                self.server = _blocks_of(self._index.statistics()[0])
            self._n_steps += 1
        except RemoteIndexError:
            self.missed += 1


def _blocks_of(said: dict[str, Any]) -> ServerBlocks:
    return ServerBlocks(
        blocks=said["entries"],
        evicted=said["server_evicted_blocks"],
        expired=said["server_expired_blocks"],
        vanished_segments=said["server_vanished_segments"],
    )
