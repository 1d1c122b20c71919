"""Which class transformers makes: the tables and the order in which they count."""

from __future__ import annotations

from typing import Any

import pytest

from kvatlas.tokenize.loading.classes.choice import class_of
from kvatlas.tokenize.loading.classes.class_tables import GENERIC


@pytest.mark.parametrize(
    ("model_type", "named", "expected"),
    [
        # The registered class and the named one agree, with and without the old suffix.
        ("qwen2", "Qwen2Tokenizer", "Qwen2Tokenizer"),
        ("qwen3", "Qwen2TokenizerFast", "Qwen2Tokenizer"),
        # Nothing registered: the named one.
        ("llama", "LlamaTokenizerFast", "LlamaTokenizer"),
        ("llama", "PreTrainedTokenizerFast", GENERIC),
        ("llama", None, GENERIC),
        # None named: the registered one.
        ("qwen3", None, "Qwen2Tokenizer"),
        ("gemma3_text", None, "GemmaTokenizer"),
        # They differ: the named one is trusted ...
        ("qwen3", "GPT2Tokenizer", "GPT2Tokenizer"),
        ("gpt2", "PreTrainedTokenizerFast", GENERIC),
        # ... but where it is known to be wrong the registered one counts.
        ("qwen2", "LlamaTokenizerFast", "Qwen2Tokenizer"),
        ("deepseek_v3", "LlamaTokenizerFast", GENERIC),
        ("phi3", "LlamaTokenizer", GENERIC),
        # A registered generic class counts more than any named one.
        ("mistral", "LlamaTokenizerFast", GENERIC),
        ("granite", "GPT2Tokenizer", GENERIC),
        # Names that transformers does not know.
        ("unheard_of", "HomeMadeTokenizer", GENERIC),
        (None, "Qwen2Tokenizer", "Qwen2Tokenizer"),
        (None, None, GENERIC),
        # vLLM's own list.
        ("internlm2", "LlamaTokenizer", GENERIC),
    ],
)
def test_class_is_the_one_that_a_server_ends_with(
    model_type: str | None, named: str | None, expected: str
) -> None:
    assert class_of({"tokenizer_class": named}, {"model_type": model_type}) == (expected, "")


def test_class_may_be_named_by_the_models_own_configuration() -> None:
    assert class_of({}, {"model_type": "llama", "tokenizer_class": "GPT2TokenizerFast"})[0] == "GPT2Tokenizer"


@pytest.mark.parametrize(
    ("config", "model_type", "word"),
    [
        ({"tokenizer_class": "WhisperTokenizerFast"}, "whisper", "WhisperTokenizer"),
        ({"tokenizer_class": "CodeLlamaTokenizer"}, "llama", "CodeLlamaTokenizer"),
        ({"auto_map": {"AutoTokenizer": ["tokenization.Own", None]}}, "own", "auto_map"),
        ({"auto_map": ["tokenization.Own", None]}, "own", "auto_map"),
    ],
)
def test_class_that_is_not_reproduced_leaves_a_doubt(
    config: dict[str, Any], model_type: str, word: str
) -> None:
    name, doubt = class_of(config, {"model_type": model_type})
    assert name == GENERIC and word in doubt


@pytest.mark.parametrize("bad", [5, None, [], {}])
def test_fields_of_the_wrong_type_count_as_left_out(bad: object) -> None:
    assert class_of({"tokenizer_class": bad, "auto_map": None}, {"model_type": bad}) == (GENERIC, "")
