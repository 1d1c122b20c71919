"""Servers that two clusters follow."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.living_fleet import Fleet, fleet_of


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with fleet_of(2) as fleet:
        fleet.serve(30)
        yield fleet
