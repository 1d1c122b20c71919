"""What a chooser knows of itself."""

from __future__ import annotations

from typing import Any

import msgspec

from kvatlas.index.choosing.policies.shadow import ShadowStatistics


class ChoosingStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the start, and what is held now."""

    choices: int = 0
    without_whole_scores: int = 0
    """Of them, those whose `reason` was not empty."""
    overloaded: int = 0
    """Refused: all candidates were saturated."""
    no_worker: int = 0
    """Refused: nobody could have served them."""
    unreserved: int = 0
    """Sent, but not counted as load: `reservations_max` was reached."""
    untracked: int = 0
    """Sent, but not followed: as many requests as `reservations_max` were in flight."""
    in_flight: int = 0
    completed: int = 0
    failed: int = 0
    moved: int = 0
    """Sent to another worker, where the first could not be reached or did not take them."""
    expired: int = 0
    """Nobody mentioned them for `reservation_s`."""
    unknown_requests: int = 0
    """Mentions of requests that are not in flight: late, expired, or never chosen here."""
    prompt_tokens: int = 0
    """Of completed requests whose reuse was told."""
    predicted_tokens: int = 0
    """What they were predicted to reuse."""
    reused_tokens: int = 0
    """What they did reuse."""
    policy: str = ""
    policy_failures: int = 0
    shadow: ShadowStatistics | None = None
    receipts: int = 0
    receipts_bytes: int = 0
    receipts_dropped: int = 0
    """For want of room (`receipts_max`, `receipts_bytes_max`); the oldest went."""
    candidate_sets_made: int = 0
    loads: dict[str, Any] = {}
    speculation: dict[str, int] = {}
    history: dict[str, int] = {}
    sessions: dict[str, int] = {}
