"""Numbers as people read them."""

from __future__ import annotations

import pytest

from kvatlas.cluster.quantities import shown_bytes, shown_count, shown_duration, shown_share


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0"),
        (9999, "9999"),
        (10_000, "10.0 k"),
        (123_456, "123 k"),
        (1_234_567, "1.23 M"),
        (5.6e9, "5.60 G"),
    ],
)
def test_counts(count: float, shown: str) -> None:
    assert shown_count(count) == shown


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (0.0, "0 %"),
        (1.0, "100 %"),
        (0.9999, "99.9 %"),
        (0.0001, "0.1 %"),
        (0.8724, "87.2 %"),
    ],
)
def test_shares_are_rounded_to_all_or_nothing_only_when_they_are(share: float, shown: str) -> None:
    assert shown_share(share) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (2.5, "2.50 s"),
        (0.0123, "12.3 ms"),
        (41e-6, "41.0 µs"),
        (250e-9, "0.2 µs"),
        (0.0, "0.0 µs"),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    assert shown_duration(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1 << 10, "1.00 KiB"), (12 << 20, "12.0 MiB"), (3 << 30, "3.00 GiB")],
)
def test_bytes_are_in_binary_units(count: int, shown: str) -> None:
    assert shown_bytes(count) == shown
