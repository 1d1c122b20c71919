"""The stand-ins for NVIDIA's libraries, compiled once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.offload.native.fake_gpu import FakeGpu, compile_library


@pytest.fixture(scope="session")
def fake_cuda_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_library("fake_cuda.cpp", tmp_path_factory.mktemp("fake_cuda") / "libcuda.so")


@pytest.fixture
def fake_gpu(
    fake_cuda_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., FakeGpu]:
    """Makes a GPU of a driver version: a copy of the library, which has its own threads and memory."""

    def make(version: int = 13000) -> FakeGpu:
        monkeypatch.setenv("FAKE_CUDA_VERSION", str(version))
        library = tmp_path / f"libcuda-{version}.so"
        if not library.exists():
            shutil.copy(fake_cuda_library, library)
        return FakeGpu(library)

    return make
