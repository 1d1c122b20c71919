"""Picking keys by how it went with them."""

from __future__ import annotations

from collections.abc import Sequence

from kvatlas.offload.backends.backend import Outcome


def keys_with(keys: Sequence[bytes], outcomes: bytes, *wanted: Outcome) -> Sequence[bytes]:
    """The keys whose outcome is one of those, in order; `outcomes` has one byte a key."""
    n_wanted = sum(map(outcomes.count, wanted))
    if n_wanted in (0, len(keys)):  # as most jobs end
        return keys if n_wanted else ()
    return [key for key, outcome in zip(keys, outcomes, strict=True) if outcome in wanted]


def keys_without(keys: Sequence[bytes], outcomes: bytes, *unwanted: Outcome) -> Sequence[bytes]:
    """The others."""
    n_unwanted = sum(map(outcomes.count, unwanted))
    if n_unwanted in (0, len(keys)):
        return () if n_unwanted else keys
    return [key for key, outcome in zip(keys, outcomes, strict=True) if outcome not in unwanted]
