"""The publishers of all releases, each with its own file out of its wheel."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.publishers.link import Network
from tests.e2e.publishers.publisher import Publisher
from tests.e2e.publishers.releases import RELEASES, Release, is_kept, publisher_source


@pytest.fixture(params=RELEASES, ids=str)
def release(request: pytest.FixtureRequest) -> Release:
    """Each release in turn."""
    chosen: Release = request.param
    return chosen


@pytest.fixture
def source(release: Release) -> Path:
    """Its file. Skips where that would have to be downloaded first; `make e2e` downloads it."""
    if not is_kept(release) and not os.environ.get("KVATLAS_VLLM_PYTHON"):
        pytest.skip("publishers of vLLM's releases have not been downloaded: see `make e2e`")
    return publisher_source(release)


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


@pytest.fixture
def network(publisher: Publisher) -> Iterator[Network]:
    with Network(publisher) as links:
        yield links
