"""What a KvatlasRouter has done in one process."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import msgspec

from kvatlas.index.choosing.choice import Choice

_TIMES_MAX = 2048


class RoutingStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counters since the process began."""

    chosen: int
    """Requests that the chooser gave a replica."""
    without_ids: int
    """Of these, requests whose token ids nobody could tell: they went where the least is to do."""
    reasons: dict[str, int]
    """Why choices were not the policy's own over whole scores."""
    fallbacks: dict[str, int]
    """Requests that went to the replica with the fewest open ones, since there was no choice to be had."""
    overloaded: int
    malformed: int
    """Prompts that no model has; the engine answers them."""
    refused: int
    """Requests that Ray's tokenizer refused; the engine answers them."""
    duplicates: int
    """Requests whose id was in flight already."""
    completed: int
    predicted_tokens: int
    """Of completed requests whose replica has reported: what it was predicted to reuse."""
    cached_tokens: int
    """What it has reused."""
    never_arrived: int
    """Requests that no engine saw in time; they are no load any more."""
    late_arrivals: int
    """Of these, those that came after all."""
    moved: int
    """Requests that arrived at another replica than the chosen one."""
    adopted: int
    """Choices of other LLMRouters that count here."""
    not_ours: int
    """News of requests that this process has not chosen for, or that have ended."""
    bad_events: int
    forgotten: int
    """Open requests beyond the bound."""
    open_requests: int
    problem: str
    """Why the options of `request_router_kwargs` do not count; empty: they do."""
    pods: list[str]
    p50_us: float
    """Time in `choose_replicas`, of the latest 2 048 requests."""
    p99_us: float


@dataclass
class RoutingCounts:
    """Of one process; one event loop's."""

    chosen: int = 0
    without_ids: int = 0
    overloaded: int = 0
    malformed: int = 0
    duplicates: int = 0
    completed: int = 0
    predicted_tokens: int = 0
    cached_tokens: int = 0
    never_arrived: int = 0
    late_arrivals: int = 0
    moved: int = 0
    adopted: int = 0
    not_ours: int = 0
    bad_events: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    fallbacks: dict[str, int] = field(default_factory=dict)
    times_s: deque[float] = field(default_factory=lambda: deque(maxlen=_TIMES_MAX))

    def noted(self, choice: Choice, *, has_ids: bool) -> None:
        """The chooser has chosen."""
        self.chosen += 1
        self.without_ids += not has_ids
        if choice.reason:
            self.reasons[choice.reason] = self.reasons.get(choice.reason, 0) + 1

    def fell_back(self, why: str) -> None:
        """It has not."""
        self.fallbacks[why] = self.fallbacks.get(why, 0) + 1

    def statistics(
        self, *, refused: int, open_requests: int, forgotten: int, problem: str, pods: list[str]
    ) -> RoutingStatistics:
        """As they are now."""
        counted = {name: value for name, value in vars(self).items() if name != "times_s"}
        times_us = sorted(1e6 * time_s for time_s in list(self.times_s))  # another thread appends
        return RoutingStatistics(
            **{**counted, "reasons": dict(self.reasons), "fallbacks": dict(self.fallbacks)},
            refused=refused,
            open_requests=open_requests,
            forgotten=forgotten,
            problem=problem,
            pods=pods,
            p50_us=_percentile(times_us, 0.5),
            p99_us=_percentile(times_us, 0.99),
        )


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[int(share * (len(ordered) - 1))] if ordered else 0.0
