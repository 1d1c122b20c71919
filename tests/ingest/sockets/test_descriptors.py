"""Room for file descriptors."""

from __future__ import annotations

import logging
import resource
from collections.abc import Iterator

import pytest

from kvatlas.ingest.sockets.descriptors import make_room


@pytest.fixture
def limits() -> Iterator[tuple[int, int]]:
    """The process's limits, a soft one of 400 in force."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (400, before[1]))
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def soft_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def test_the_soft_limit_is_raised_as_far_as_needed(limits: tuple[int, int]) -> None:
    make_room(100)
    assert soft_limit() == 400
    make_room(200)
    assert soft_limit() == 200 + 256


def test_beyond_the_hard_limit_a_warning_says_what_is_missing(
    limits: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    hard = limits[1]
    if hard == resource.RLIM_INFINITY:
        pytest.skip("no hard limit here")
    with caplog.at_level(logging.WARNING):
        make_room(hard)
    assert soft_limit() == hard
    assert f"expected room for {hard + 256}, got {hard}" in caplog.text
