"""Turns what a mirror knows of its own exactness into doubts."""

from __future__ import annotations

from collections.abc import Mapping

from kvatlas.ingest.truth import Truth

_DOUBT_OF_CLAIM = {
    "maybe_gpu": "maybe_gpu",
    "maybe_cpu": "maybe_cpu",
    "orphans_waiting": "orphans",
    "lost_blocks": "lost_blocks",
    "lost_offloaded": "lost_offloaded",
    "lost_stored": "lost_stored",
    "unindexed_held": "unindexed",
    "unlinked_parts": "unlinked",
}


class ClaimsWatch:
    """Raises and settles a worker's doubts as its mirror's claims change.

    `gpu_blocks`: how many the engine has, where that is known. Thread safety: none.
    """

    def __init__(self, truth: Truth, *, gpu_blocks: int | None, trusts_absent_extras: bool) -> None:
        self._truth = truth
        self._gpu_blocks = gpu_blocks
        self._trusts_absent_extras = trusts_absent_extras
        self._clears = 0
        self.misses_offloaded = False
        """Whether it may hold offloaded blocks from before; it matters once it shows that it offloads."""
        self.has_absent_extras = False
        """Some of its events do not say what is salted or multimodal."""

    def restart(self) -> None:
        """Another incarnation of the engine, or its whole history, begins."""
        self.misses_offloaded = False

    def observe(self, claims: Mapping[str, int], now_s: float) -> None:
        """`claims` as `Mirror.claims` has them."""
        truth = self._truth
        if claims["clears"] != self._clears:
            self._clears = claims["clears"]
            self._know_the_device()
        elif self._gpu_blocks is not None and claims["gpu_copies"] >= self._gpu_blocks:
            self._know_the_device()
        if claims["stale"] == 0:
            truth.settle("lost", "unread")
        if self.misses_offloaded and claims["offloaded"]:
            truth.doubt("missed_offloaded", now_s)
        for claim, doubt in _DOUBT_OF_CLAIM.items():
            if claims[claim]:
                truth.doubt(doubt, now_s, f"{claims[claim]}")
            else:
                truth.settle(doubt)
        self.has_absent_extras = claims["extras_absent"] > 0
        if self.has_absent_extras and not self._trusts_absent_extras:
            truth.doubt("unsalted", now_s)
        else:
            truth.settle("unsalted")

    def _know_the_device(self) -> None:
        """All that the engine holds on gpu is known; what it has offloaded before may not be."""
        if self._truth.stands("missed"):
            self.misses_offloaded = True
            self._truth.settle("missed")
