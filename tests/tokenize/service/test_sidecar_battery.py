"""The cases by which tokenizers are compared with model servers, asked through services."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kvatlas.index.errors import InputError, KvatlasError, TokenizerError
from kvatlas.tokenize.backend import ModelTokenizer
from kvatlas.tokenize.config import SidecarConfig
from kvatlas.tokenize.parity.battery import battery
from kvatlas.tokenize.parity.case import Case
from kvatlas.tokenize.service.sidecar import SidecarSource
from kvatlas.tokenize.tokenizers import Tokenizers
from tests.tokenize.service.foreign_service import foreign_answers, serving

CASES = battery(("<|turn|>", "<|tool|>", "<|begin|>"))


def found(address: str) -> ModelTokenizer:
    tokenizer = SidecarSource(SidecarConfig(address=address)).find("small")
    assert tokenizer is not None
    return tokenizer


def outcome(tokenizer: ModelTokenizer, case: Case) -> list[int] | type[KvatlasError]:
    try:
        ids: list[int] = case.ask(tokenizer).token_ids.tolist()
    except KvatlasError as error:
        return type(error)
    return ids


@pytest.fixture(scope="module")
def foreign(tokenizers: Tokenizers) -> Iterator[ModelTokenizer]:
    with serving(foreign_answers(tokenizers)) as address:
        tokenizer = found(address)
        yield tokenizer
        tokenizer.close()


def test_service_of_kvatlas_answers_and_refuses_as_the_tokenizer_itself(
    service: str, tokenizers: Tokenizers
) -> None:
    here, there = tokenizers.get("small"), found(service)
    differing = [case.name for case in CASES if outcome(here, case) != outcome(there, case)]
    there.close()
    assert not differing
    assert sum(isinstance(outcome(here, case), list) for case in CASES) > len(CASES) * 0.9


def test_other_service_gives_the_same_ids_or_none(foreign: ModelTokenizer, tokenizers: Tokenizers) -> None:
    here = tokenizers.get("small")
    answered = 0
    for case in CASES:
        got = outcome(foreign, case)
        if isinstance(got, list):
            answered += 1
            assert got == outcome(here, case), case.name
        else:
            assert issubclass(got, (InputError, TokenizerError)), case.name
    assert answered > len(CASES) * 0.6
