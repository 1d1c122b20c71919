"""Turns what a mirror knows of its own exactness into doubts."""

from __future__ import annotations

from collections.abc import Mapping

from kvatlas.ingest.config import PodConfig
from kvatlas.ingest.stream.truth import Truth

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
    """Raises and settles a worker's doubts as its mirror's claims change. Thread safety: none."""

    def __init__(self, truth: Truth, config: PodConfig) -> None:
        self._truth = truth
        self.config = config
        """What is known of the pod; may be replaced."""
        self._clears = 0

    @property
    def waits_for_turnover(self) -> bool:
        """Whether the number of copies known may settle a doubt."""
        return self.config.gpu_blocks is not None and self._truth.stands("missed")

    def observe(self, claims: Mapping[str, int], now_s: float) -> None:
        """`claims` as `Mirror.claims` has them."""
        doubts = {doubt: f"{claims[claim]}" for claim, doubt in _DOUBT_OF_CLAIM.items() if claims[claim]}
        settled = {doubt for doubt in _DOUBT_OF_CLAIM.values() if doubt not in doubts}
        if self._truth.stands("missed") and self._knows_the_device(claims):
            settled.add("missed")
            if self.config.offloads is not False:
                doubts["missed_offloaded"] = ""
        self._clears = claims["clears"]
        if claims["stale"] == 0:
            settled |= {"lost", "unread", "reported"}
        elif not (self._truth.stands("lost") or self._truth.stands("unread")):
            doubts["reported"] = f"{claims['stale']}"
        self._truth.lack_extras(claims["extras_absent"] > 0)
        if self._truth.lacks_extras and not self.config.trust_absent_extras:
            doubts["unsalted"] = ""
        else:
            settled.add("unsalted")
        self._truth.change(now_s, doubts=doubts, settled=settled)

    def _knows_the_device(self, claims: Mapping[str, int]) -> bool:
        """Whether all that the engine holds on gpu has been announced since something was missed."""
        gpu_blocks = self.config.gpu_blocks
        if gpu_blocks is not None and claims["gpu_copies"] >= gpu_blocks and claims["stale"] == 0:
            return True
        return claims["clears"] != self._clears
