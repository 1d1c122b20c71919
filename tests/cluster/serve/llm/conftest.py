"""What the tests on Ray's own parts share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes what a test has made."""
    with ExitStack() as stack:
        yield stack
