"""Tokenizers as loaded here beside those that the model server's transformers makes of the same files."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tokenizers import AddedToken, Tokenizer

from kvatlas.index.errors import TokenizerError
from kvatlas.tokenize.loading.classes.effective import effective
from kvatlas.tokenize.loading.files import Place, read_files
from tests.models.tokenizer_kinds import byte_level_bpe, metaspace_bpe, unigram, with_tokens
from tests.tokenize.loading.model_files import small_tokenizer, write_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# As vLLM 0.32 calls it, in vllm/tokenizers/registry.py and hf.py.
MAKE = """
import json, sys
import transformers
from transformers import AutoConfig, AutoTokenizer
transformers.logging.set_verbosity_error()
folders, texts = json.load(sys.stdin)
answers = []
for folder in folders:
    try:
        made = AutoTokenizer.from_pretrained(
            folder, config=AutoConfig.from_pretrained(folder), truncation_side="left", mistral_format=False,
            trust_remote_code=False)
        ids = [made.encode(text, add_special_tokens=add) for text in texts for add in (True, False)]
        answers.append({"ids": ids, "special_tokens": made.special_tokens_map})
    except Exception as error:
        answers.append({"error": repr(error)})
json.dump(answers, sys.stdout)
"""
TEXTS = (
    *("", "Hello world", " The dog isn't 1234567", "x</s>y<|a|>  <|new|> Dog", "日本 naïve e\u0301 🙂"),
    *("line\nbreak\r\n\n  two   spaces\t tab", "<|a|> lead <|ab|>trail  ", "<|endoftext|><unk><s>the quick"),
)
CLASSES = (
    *("PreTrainedTokenizerFast", "Qwen2Tokenizer", "Qwen3_5Tokenizer", "LlamaTokenizerFast"),
    *("GPT2TokenizerFast", "GPTNeoXTokenizerFast", "GemmaTokenizer", "CohereTokenizerFast", "Unheard", None),
)
MODEL_TYPES = (
    "llama",
    "qwen2",
    "qwen3",
    "mistral",
    "gemma3_text",
    "gpt_neox",
    "phi3",
    "cohere2",
    "olmo2",
    "opt",
)
TOKEN = {"content": "<|new|>", "lstrip": False, "rstrip": True, "normalized": False, "special": True}
CONFIGS: tuple[dict[str, Any], ...] = (
    {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    {"bos_token": None, "eos_token": "</s>", "pad_token": None, "add_bos_token": True},
    {"added_tokens_decoder": {"3": TOKEN, "2000": {**TOKEN, "content": "dog", "special": False}}},
    {"additional_special_tokens": ["<|new|>", "quick"], "add_prefix_space": True, "legacy": True},
    {"extra_special_tokens": {"image_token": "<|new|>"}, "audio_token": "lazy", "add_prefix_space": False},
    {"eos_token": {"__type": "AddedToken", **TOKEN}, "split_special_tokens": True, "legacy": None},
)


class Case(NamedTuple):
    what: str
    folder: Path


def kinds() -> dict[str, Tokenizer]:
    own = [AddedToken("The", lstrip=True), AddedToken("fox", normalized=False, special=True)]
    return {
        "bytes": small_tokenizer("<|endoftext|>", "<unk>", "<s>"),
        "added": with_tokens(byte_level_bpe(), ["<s>", "<unk>", *own]),
        "spaces": with_tokens(metaspace_bpe("first"), ["<s>", "</s>"]),
        "unigram": with_tokens(unigram(), ["<s>", "</s>"]),
    }


def cases(folder: Path) -> Iterator[Case]:
    plans = [
        *itertools.product(kinds(), CLASSES, ("llama",), CONFIGS),
        *itertools.product(
            ("bytes", "spaces"), (None, "LlamaTokenizer", "Qwen2Tokenizer"), MODEL_TYPES, CONFIGS[:1]
        ),
    ]
    tokenizers = kinds()
    for number, (kind, class_name, model_type, config) in enumerate(plans):
        config = config if class_name is None else {**config, "tokenizer_class": class_name}
        older = number % 3 == 0
        write_model(
            folder / str(number),
            tokenizers[kind],
            tokenizer_config=config,
            config={"model_type": model_type},
            special_tokens_map={"sep_token": TOKEN, "cls_token": "brown"} if older else None,
            added_tokens={"over": 900} if older else None,
        )
        yield Case(f"{kind}, {model_type}, {config}, older files: {older}", folder / str(number))


def test_ids_and_special_tokens_are_those_of_the_servers_library(vllm_python: str, tmp_path: Path) -> None:
    asked = list(cases(tmp_path))
    question = json.dumps([[str(case.folder) for case in asked], TEXTS])
    run = subprocess.run(
        [vllm_python, "-c", MAKE], input=question.encode(), capture_output=True, timeout=500, check=False
    )
    assert run.returncode == 0, run.stderr.decode()[-2000:]
    n_equal = 0
    for case, answer in zip(asked, json.loads(run.stdout), strict=True):
        if "error" in answer:
            continue  # no server runs with these files
        try:
            made = effective(read_files(Place(case.folder)))
        except TokenizerError as error:
            pytest.fail(f"{case.what}: the server's library makes it, and here: {error}")
        if made.doubt:
            continue
        ids = [
            made.tokenizer.encode(text, add_special_tokens=add).ids for text in TEXTS for add in (True, False)
        ]
        assert ids == answer["ids"], case.what
        assert made.special_tokens == answer["special_tokens"], case.what
        n_equal += 1
    assert n_equal > len(asked) / 2
