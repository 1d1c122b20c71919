"""Ray Serve LLM with real engines: `make e2e-serve`. Only where ray.serve.llm and vLLM are installed."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from kvatlas.cluster.serve.llm.environment import prepare_environment
from tests.e2e.chat_tokenizer import write_chat_tokenizer
from tests.e2e.vllm_server import write_tiny_model
from tests.e2e_serve.serve_llm import ServeLlm

if find_spec("vllm") is None or find_spec("pyarrow") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    prepare_environment()
    with warnings.catch_warnings():  # theirs; tests take warnings for errors
        warnings.simplefilter("ignore")
        import vllm  # noqa: F401


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose tokenizer has a chat template."""
    folder = tmp_path_factory.mktemp("model")
    write_chat_tokenizer(folder / "plain")
    return write_tiny_model(sys.executable, folder, "plain")


@pytest.fixture(scope="session")
def served(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeLlm]:
    """Ray and Serve, nothing deployed."""
    with ServeLlm(model, tmp_path_factory.mktemp("serve")) as server:
        yield server
