"""The full account of one choice, as structs that any format can say."""

from __future__ import annotations

from typing import Literal

import msgspec

Outcome = Literal["chosen", "overloaded", "completed", "failed", "expired"]


class CandidateAccount(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker had to offer, at the moment of the choice."""

    pod: str
    rank: int
    url: str | None = None
    tier_blocks: dict[str, int] = {}
    """Blocks of the prompt that it can reuse, by tier; without those of which it has none."""
    matched_tokens: int = 0
    """What the index says it can reuse."""
    credited_tokens: float = 0.0
    """What was counted for it: discounted where the index may be wrong, or from what was sent there."""
    prefill_tokens: float = 0.0
    """Of others' requests, that it must still prefill."""
    decode_tokens: float = 0.0
    """Of others' requests, in its cache."""
    requests: int = 0
    """Others', that it works on or has in its queue."""
    cost: float | None = None
    """In `Receipt.cost_unit`. None: it takes no more."""
    truth: str = ""
    doubts: tuple[str, ...] = ()
    """Why its truth is not better, the worst first."""
    why: str = ""
    """Why it was chosen, or was not."""


class Stages(msgspec.Struct, frozen=True, kw_only=True):
    """Where the time went, in microseconds."""

    tokenize_us: float = 0.0
    look_us: float = 0.0
    """Keys and matches; in a cluster also what other nodes were asked."""
    decide_us: float = 0.0
    """Everything from the matches to the reservation."""


class ShadowAccount(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy that is only counted would have done."""

    policy: str
    pod: str | None
    """None: nobody, all were saturated."""
    rank: int = 0
    predicted_cached_tokens: int = 0


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """One choice: who could have been chosen, who was, why, and what came of it."""

    request_id: str
    model: str
    time_s: float
    """Unix time of the choice."""
    policy: str
    reason: str = ""
    """Why it is not the policy's choice over whole scores; empty: it is."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    """Expected of the answer."""
    block_size_tokens: int = 0
    pod: str | None = None
    """The chosen one. None: all were saturated."""
    rank: int = 0
    cost: float = 0.0
    cost_unit: str = "tokens"
    predicted_cached_tokens: int = 0
    """Of the chosen one."""
    sent_pod: str | None = None
    """Where the request went, if not to the chosen one."""
    sent_rank: int = 0
    actual_cached_tokens: int | None = None
    """None: not told."""
    actual_output_tokens: int | None = None
    outcome: Outcome = "chosen"
    outcome_says: str = ""
    """What was said of a failure."""
    is_reserved: bool = False
    is_whole: bool = True
    """Every shard that the prompt touches was there."""
    view_age_s: float = 0.0
    """Age of what was known of the workers' truths: since the cluster last confirmed it. 0: the router
    follows them itself."""
    stages: Stages = Stages()
    candidates: tuple[CandidateAccount, ...] = ()
    """The cheapest first; of a large fleet the first 256."""
    n_candidates: int = 0
    excluded: dict[str, str] = {}
    """Pods of the model that could not be chosen, and why; at most 64."""
    shadow: ShadowAccount | None = None
    decode: Receipt | None = None
    """With roles split: the choice of the worker that decodes."""
