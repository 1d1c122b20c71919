"""What the tests of the gateway share: a small tokenizer, a gateway over two pods."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest

from kvatlas.tokenize.config import TokenizeConfig
from kvatlas.tokenize.tokenizers import Tokenizers
from tests.cluster.gateway.rig import MODEL, Asker, EmbeddedBackend, fill, served
from tests.tokenize.service.small_model import write_small_model

with warnings.catch_warnings():  # Serve's modules warn of themselves, and tests take warnings for errors
    warnings.simplefilter("ignore")
    import ray.serve  # noqa: F401


@pytest.fixture(scope="session")
def gateway_tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tokenizers]:
    folder = write_small_model(tmp_path_factory.mktemp("models") / "small")
    made = Tokenizers(TokenizeConfig(models={MODEL: str(folder)}))
    yield made
    made.close()


@pytest.fixture
def backend(gateway_tokenizers: Tokenizers) -> EmbeddedBackend:
    made = EmbeddedBackend(gateway_tokenizers)
    fill(made)
    return made


@pytest.fixture
def asker(backend: EmbeddedBackend) -> Iterator[Asker]:
    with served(backend) as made:
        yield made
