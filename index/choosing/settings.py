"""Configuration of choices. Every field has a unit in its name and a default."""

from __future__ import annotations

import msgspec

from kvatlas.index.errors import ConfigError
from kvatlas.index.scores import TIERS


class CostWeights(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the terms of a worker's cost weigh, in tokens to prefill (docs/routing.md)."""

    overlap: float = 1.0
    """Of the request's own tokens that cannot be reused there. 0: caches do not matter."""
    prefill: float = 1.0
    """Of the tokens that the worker must still prefill for others."""
    decode: float = 0.02
    """Of the tokens in the caches of requests that it is decoding."""


class ChoosingConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How workers are chosen. Raises ConfigError for values out of range, with their path."""

    # Behaviour.
    policy: str = "weighted"
    """weighted, longest_prefix, least_loaded, round_robin, random, or `package.module:Class` of one's own."""
    policy_options: dict[str, float | int | str | bool] = {}
    """Keyword arguments of a policy of one's own."""
    shadow_policy: str = ""
    """Another policy, evaluated on the same requests and only counted. Empty: none."""
    weights: CostWeights = CostWeights()
    """What the terms of a cost weigh."""
    temperature: float = 0.0
    """Softmax over costs, as a share of their spread. 0: the cheapest worker."""
    tier_costs: dict[str, float] = msgspec.field(
        default_factory=lambda: {"cpu": 0.05, "disk": 0.2, "storage": 0.3}
    )
    """What a reused token costs that must be loaded back from this tier, as a share of one that is
    computed, until that has been measured of a worker."""
    session_bonus_tokens: float = 256.0
    """By how much a worker is preferred that has served the request's session before."""
    near_tokens: float = 512.0
    """What each label costs that a request would rather have the same (`Ask.near`)."""
    hot_requests: int = 0
    """Requests of one worker from which its overlap counts less and less. 0: it always counts in full."""
    output_tokens_default: int = 256
    """Expected of a request that does not say."""
    prompt_tokens_default: int = 512
    """Taken for the length of a prompt of which nothing is known."""
    saturation_tokens: float = 0.0
    """Cost of others' work on a worker from which it takes no more. 0: no limit but `requests_max`."""
    queue_requests_max: int = 64
    """Requests of one worker beyond those that it works on at a time; needs `Serving.requests_max`."""
    bypass_tokens: int = 512
    """Prefill left on a decode worker up to which it needs no prefill worker."""
    transfer_cost: float = 0.02
    """Of a token's cache that moves from a prefill to a decode worker, as a share of one that is computed."""

    # Time.
    reservation_s: float = 600.0
    """A request that nobody has mentioned for so long is taken for gone."""
    speculative_s: float = 3.0
    """How long a chosen worker is taken to hold the prompt before its events say so."""

    # Performance and bounds.
    reservations_max: int = 65_536
    """At one time in one process; further choices are not reserved, and counted."""
    speculative_blocks_max: int = 1 << 18
    """Blocks of `speculative_s` at one time in one process; the oldest go."""
    history_blocks_max: int = 1 << 20
    """Blocks remembered for workers without events; the oldest go."""
    sessions_max: int = 65_536
    """Sessions whose worker is remembered; the one unused longest goes."""
    receipts_max: int = 4096
    """Receipts kept; the oldest go."""
    receipts_bytes_max: int = 64 << 20
    """Bytes of what they are made from; the oldest go."""

    def __post_init__(self) -> None:
        weights = msgspec.structs.asdict(self.weights)
        for path, value in (
            *((f"weights.{name}", value) for name, value in weights.items()),
            *((f"tier_costs[{tier!r}]", value) for tier, value in self.tier_costs.items()),
        ):
            _check(path, value, 0 <= value < 1e9, "0 to 1e9")
        for tier in self.tier_costs:
            _check("tier_costs", tier, tier in TIERS, f"tiers among {', '.join(TIERS)}")
        for name, low, high in _RANGES:
            value = getattr(self, name)
            _check(name, value, low <= value <= high, f"{low} to {high}")
        _check("policy", self.policy, bool(self.policy), "a name or package.module:Class")


_RANGES = (
    ("temperature", 0, 100),
    ("session_bonus_tokens", 0, 1e9),
    ("near_tokens", 0, 1e9),
    ("hot_requests", 0, 1 << 20),
    ("output_tokens_default", 0, 1 << 24),
    ("saturation_tokens", 0, 1e12),
    ("queue_requests_max", 0, 1 << 20),
    ("prompt_tokens_default", 1, 1 << 24),
    ("bypass_tokens", 0, 1 << 24),
    ("transfer_cost", 0, 1e6),
    ("reservation_s", 0.1, 86_400),
    ("speculative_s", 0, 3600),
    ("reservations_max", 1, 1 << 22),
    ("speculative_blocks_max", 0, 1 << 26),
    ("history_blocks_max", 0, 1 << 26),
    ("sessions_max", 0, 1 << 24),
    ("receipts_max", 0, 1 << 20),
    ("receipts_bytes_max", 0, 1 << 40),
)


def _check(path: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise ConfigError(f"choosing.{path}: expected {expected}, got {value!r}")
