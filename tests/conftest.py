"""The fixtures that tests of several folders share."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests import profiles
from tests.ray_of_process import RayOfProcess

profiles.load()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Tests are no garbage: looking for it among thousands of them is a third of collecting them."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def root_logger_as_it_begins() -> None:
    """Ray Serve, once a test has imported it, has every logger of the process say all it knows."""
    logging.getLogger().setLevel(logging.WARNING)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder that KVATLAS_SHARED names: recorded events, tokenizers, traces. Skips without it."""
    path = os.environ.get("KVATLAS_SHARED")
    if not path or not Path(path).is_dir():
        pytest.skip("KVATLAS_SHARED names no folder")
    return Path(path)


@pytest.fixture(scope="session")
def ray_of_process() -> Iterator[RayOfProcess]:
    """Starts with the first module that asks for it, ends with the last test."""
    one = RayOfProcess()
    yield one
    one.end()


@pytest.fixture(scope="module")
def shared_ray(ray_of_process: RayOfProcess) -> Iterator[None]:
    """A Ray on this machine, the same for module after module; each must end the actors it has named."""
    ray_of_process.begin()
    yield
    ray_of_process.check_left()


@pytest.fixture(scope="module")
def no_ray(ray_of_process: RayOfProcess) -> None:
    """For a module that starts a Ray of another kind in this process, and ends it."""
    ray_of_process.end()


@pytest.fixture
def fuzz_seconds(request: pytest.FixtureRequest) -> float:
    """How long one test marked `fuzz` may run: FUZZ_SECONDS, shared among those that run now."""
    count = sum(item.get_closest_marker("fuzz") is not None for item in request.session.items)
    return float(os.environ.get("FUZZ_SECONDS", "5")) / max(count, 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives every test marked `fuzz` a timeout that its FUZZ_SECONDS fit into."""
    patience = float(os.environ.get("FUZZ_SECONDS", "5")) + 120
    for item in items:
        if item.get_closest_marker("fuzz") is not None:
            item.add_marker(pytest.mark.timeout(patience))
