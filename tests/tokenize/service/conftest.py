"""What the tests of the service share: a model, its tokenizers, a service that serves them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvatlas.tokenize.config import TokenizeConfig
from kvatlas.tokenize.service.config import ServiceConfig
from kvatlas.tokenize.service.serving.server import TokenizationServer
from kvatlas.tokenize.tokenizers import Tokenizers
from tests.tokenize.service.small_model import write_small_model


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="session")
def tokenizers(model_folder: Path) -> Iterator[Tokenizers]:
    made = Tokenizers(TokenizeConfig(models={"small": str(model_folder)}, request_templates=True))
    made.get("small")  # loaded: requests are quick
    yield made
    made.close()


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    """A folder with a short path: the address of a Unix socket holds 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="kv") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def service(tokenizers: Tokenizers) -> Iterator[str]:
    """Serves the tokenizers for the tests of one module; its address."""
    server = TokenizationServer(tokenizers, ServiceConfig(listen=(":0",)))
    (address,) = server.start()
    yield address
    server.stop(0)
