"""Limits and the room that they leave."""

from __future__ import annotations

import pytest

from kvatlas.index.errors import ConfigError
from kvatlas.offload.capacity.ledger import LedgerSums
from kvatlas.offload.capacity.limits import CapacityLimits
from kvatlas.offload.capacity.room import Room, ahead_bytes, room_of

MB = 1 << 20


def room(used: int, claimed: int = 0, wanted: int = 0, free: int = 1000 * MB, **limits: float) -> Room:
    sums = LedgerSums(True, used, max(claimed, used), wanted, 1, 0)
    return room_of(CapacityLimits(**limits), sums, free)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("capacity_bytes", 1),
        ("free_bytes_min", -1),
        ("high_share", 1.5),
        ("low_share", 0.99),
        ("lease_s", -1.0),
        ("touch_s", 31.0),
        ("dead_s", 1.0),
    ],
)
def test_a_value_out_of_range_is_named(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: expected .*, got {value}"):
        CapacityLimits(**{field: value})  # type: ignore[arg-type]


def test_the_cap_counts_until_the_disk_is_short() -> None:
    assert room(10 * MB, capacity_bytes=100 * MB).size_bytes == 100 * MB
    short = room(80 * MB, capacity_bytes=100 * MB, free_bytes_min=30 * MB, free=20 * MB)
    assert short.size_bytes == 70 * MB and short.is_short
    assert short.excess_bytes == 80 * MB - int(70 * MB * 0.85)


def test_a_disk_that_others_have_filled_leaves_no_room_at_all() -> None:
    full = room(5 * MB, free_bytes_min=100 * MB, free=10 * MB)
    assert (full.size_bytes, full.free_bytes, full.excess_bytes) == (0, 0, 5 * MB)


def test_eviction_begins_above_high_and_goes_on_to_low() -> None:
    assert not room(95 * MB, capacity_bytes=100 * MB).is_short
    above = room(96 * MB, capacity_bytes=100 * MB)
    assert above.is_short and above.excess_bytes == 11 * MB


def test_a_store_that_does_not_fit_begins_an_eviction_below_high() -> None:
    stuck = room(80 * MB, wanted=30 * MB, capacity_bytes=100 * MB)
    assert stuck.is_short and stuck.excess_bytes == 10 * MB


def test_all_claims_ahead_leave_room_up_to_the_high_threshold() -> None:
    limits = CapacityLimits(capacity_bytes=1000 * MB, high_share=0.9)
    assert ahead_bytes(limits, room(0, capacity_bytes=1000 * MB), 10) * 10 <= 50 * MB
