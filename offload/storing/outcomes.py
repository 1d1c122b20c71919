"""Picking keys by how it went with them."""

from __future__ import annotations

from collections.abc import Sequence

from kvatlas.offload.backends.backend import Outcome


def keys_with(keys: Sequence[bytes], outcomes: bytes, *wanted: Outcome) -> Sequence[bytes]:
    """The keys whose outcome is one of those, in order; `outcomes` has one byte a key."""
    if sum(outcomes.count(one) for one in wanted) == len(keys):
        return keys
    return [key for key, outcome in zip(keys, outcomes, strict=True) if outcome in wanted]


def keys_without(keys: Sequence[bytes], outcomes: bytes, *unwanted: Outcome) -> Sequence[bytes]:
    """The others."""
    if sum(outcomes.count(one) for one in unwanted) == len(keys):
        return ()
    return [key for key, outcome in zip(keys, outcomes, strict=True) if outcome not in unwanted]
