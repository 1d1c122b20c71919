"""The models that are attacked, and tokenizers of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kvatlas.tokenize.tokenizers import Tokenizers
from tests.tokenize.bad_input.victims import victims, write_victims


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_victims(tmp_path_factory.mktemp("victims"))


@pytest.fixture(scope="module")
def tokenizers(folder: Path) -> Iterator[Tokenizers]:
    made = victims(folder)
    yield made
    made.close()
