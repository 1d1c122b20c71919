"""Real model servers for the session, the first with an atlas that has heard it from its first event."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.observed_server import ObservedServer, Observer
from tests.e2e.vllm_server import VllmServer, write_tiny_model
from tests.e2e.warm_servers import WarmVllm


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """The Python of the environment that holds vLLM. Skips without it."""
    path = os.environ.get("KVATLAS_VLLM_PYTHON")
    if not path:
        pytest.skip("KVATLAS_VLLM_PYTHON names no Python that has vLLM: see `make e2e`")
    return path


@pytest.fixture(scope="session")
def tiny_model(vllm_python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(vllm_python, tmp_path_factory.mktemp("tiny"), "plain")


@pytest.fixture(scope="session")
def warm(vllm_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmVllm]:
    """What servers that start in seconds are forks of."""
    one = WarmVllm(vllm_python, tmp_path_factory.mktemp("warm"))
    yield one
    one.close()


@pytest.fixture(scope="session")
def first_server(
    vllm_python: str, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VllmServer]:
    """Started, perhaps not up yet: a listener can be there before its first event."""
    with VllmServer(vllm_python, tiny_model, tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="session")
def observed_for_long(first_server: VllmServer) -> Iterator[ObservedServer]:
    with Observer(first_server) as observer, ObservedServer(first_server, observer) as observed:
        first_server.wait_until_healthy()
        yield observed


@pytest.fixture
def observed(observed_for_long: ObservedServer) -> ObservedServer:
    """A server of 64 blocks with an empty cache."""
    observed_for_long.reset()
    return observed_for_long
