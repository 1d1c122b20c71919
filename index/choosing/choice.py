"""What a choice answers: the worker, and what it is predicted to reuse."""

from __future__ import annotations

import msgspec


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """Where a request should go. `Chooser.receipt(request_id)` has the full account."""

    request_id: str
    pod: str
    rank: int
    """Data-parallel rank of the worker."""
    url: str | None = None
    """Where its pod serves, where that is known."""
    cached_tokens: int = 0
    """Of the prompt, what the worker is predicted to reuse."""
    prompt_tokens: int = 0
    cost: float = 0.0
    """The worker's, in tokens to prefill or, once rates have been measured, in seconds (`cost_unit`)."""
    cost_unit: str = "tokens"
    truth: str = ""
    """How far `cached_tokens` can be relied on, such as "EXACT"; BLIND: from routing history."""
    policy: str = ""
    reason: str = ""
    """Why it is not the policy's choice over whole scores: shards missing, no token ids, ...; else empty."""
    is_reserved: bool = False
    """It counts as the worker's load until `completed`, `failed` or silence."""
    decode: Choice | None = None
    """With roles split: this is the prefill worker, that one decodes. None: this one does both."""
