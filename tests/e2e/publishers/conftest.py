"""The publishers of all releases, each with its own file out of its wheel."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.publishers.publisher import Publisher
from tests.e2e.publishers.releases import RELEASES, Release, UnavailableError, publisher_source


@pytest.fixture(params=RELEASES, ids=str)
def release(request: pytest.FixtureRequest) -> Release:
    """Each release in turn."""
    chosen: Release = request.param
    return chosen


@pytest.fixture
def source(release: Release) -> Path:
    """Its file. Skips where it cannot be downloaded; in `make e2e` that is an error."""
    try:
        return publisher_source(release)
    except UnavailableError as error:
        if os.environ.get("KVATLAS_VLLM_PYTHON"):
            raise
        pytest.skip(f"no wheel of that release: {error}")


NewPublisher = Callable[..., Publisher]


@pytest.fixture
def new_publisher(source: Path) -> Iterator[NewPublisher]:
    """Makes publishers, with the arguments of `Publisher`, and ends them."""
    with ExitStack() as running:

        def create(**options: Any) -> Publisher:
            return running.enter_context(Publisher(source, **options))

        yield create


@pytest.fixture
def publisher(new_publisher: NewPublisher) -> Publisher:
    return new_publisher()
