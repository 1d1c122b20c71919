"""Tokenizers whose class in transformers keeps vocabulary, merges and post-processor of `tokenizer.json` and
brings the rest itself.

Source: the classes' constructors in transformers 5.19.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
_REST = r"[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2_PATTERN = _WORDS + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+" + _REST
QWEN3_5_PATTERN = _WORDS + r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+" + _REST

# What a class passes for a special token that its configuration does not name.
_END_OF_TEXT = {"unk_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
DEFAULT_SPECIAL_TOKENS: dict[str, dict[str, str]] = {
    "Qwen2Tokenizer": {**_END_OF_TEXT, "pad_token": "<|endoftext|>"},
    "Qwen3_5Tokenizer": {**_END_OF_TEXT, "pad_token": "<|endoftext|>"},
    "LlamaTokenizer": {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    "GPT2Tokenizer": {**_END_OF_TEXT, "bos_token": "<|endoftext|>"},
    "GPTNeoXTokenizer": {**_END_OF_TEXT, "bos_token": "<|endoftext|>", "pad_token": "<|padding|>"},
    "GemmaTokenizer": {
        "unk_token": "<unk>",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
    },
    "CohereTokenizer": {
        "unk_token": "<UNK>",
        "bos_token": "<BOS_TOKEN>",
        "eos_token": "<|END_OF_TURN_TOKEN|>",
        "pad_token": "<PAD>",
        "cls_token": "<CLS>",
        "sep_token": "<SEP>",
        "mask_token": "<MASK_TOKEN>",
    },
}


def can_rebuild(definition: Mapping[str, Any]) -> bool:
    """Whether the vocabulary is of the kind that these classes read."""
    model = definition.get("model")
    return (
        isinstance(model, Mapping) and model.get("type") == "BPE" and isinstance(model.get("vocab"), Mapping)
    )


def rebuild(
    class_name: str, definition: Mapping[str, Any], config: Mapping[str, Any], unk_token: str | None
) -> Tokenizer:
    """The tokenizer that the class makes, still without added tokens.

    `config` is `tokenizer_config.json`, `unk_token` the unknown token as the class sees it.
    """
    from tokenizers import Tokenizer

    model = definition["model"]
    bare: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None if class_name == "GPTNeoXTokenizer" else definition.get("post_processor"),
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": model["vocab"],
            "merges": model.get("merges") or [],
        },
    }
    bare["model"].update(_model_options(class_name, unk_token))
    tokenizer = Tokenizer.from_str(json.dumps(bare))
    _PARTS[class_name](tokenizer, config)
    return tokenizer


def _model_options(class_name: str, unk_token: str | None) -> dict[str, Any]:
    if class_name == "LlamaTokenizer":
        return {"fuse_unk": True, "byte_fallback": True}
    if class_name == "GemmaTokenizer":
        return {"fuse_unk": True, "byte_fallback": True, "unk_token": str(unk_token)}
    return {}


def _qwen(pattern: str) -> Callable[[Tokenizer, Mapping[str, Any]], None]:
    def parts(tokenizer: Tokenizer, config: Mapping[str, Any]) -> None:
        from tokenizers import Regex, normalizers, pre_tokenizers

        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False),
                pre_tokenizers.ByteLevel(add_prefix_space=_prefix_space(config), use_regex=False),
            ]
        )

    return parts


def _llama(tokenizer: Tokenizer, config: Mapping[str, Any]) -> None:
    from tokenizers import pre_tokenizers

    scheme = "never"
    if _prefix_space(config, default=True):
        scheme = "always" if config.get("legacy") else "first"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)


def _gpt2(tokenizer: Tokenizer, config: Mapping[str, Any]) -> None:
    from tokenizers import pre_tokenizers

    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=_prefix_space(config))


def _gpt_neox(tokenizer: Tokenizer, config: Mapping[str, Any]) -> None:
    from tokenizers import normalizers

    tokenizer.normalizer = normalizers.NFC()
    _gpt2(tokenizer, config)


def _gemma(tokenizer: Tokenizer, config: Mapping[str, Any]) -> None:
    from tokenizers import normalizers, pre_tokenizers

    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern=" ", behavior="merged_with_previous", invert=False)


def _cohere(tokenizer: Tokenizer, config: Mapping[str, Any]) -> None:
    from tokenizers import normalizers, pre_tokenizers

    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=_prefix_space(config), trim_offsets=True),
        ]
    )


def _prefix_space(config: Mapping[str, Any], default: bool = False) -> bool:
    given = config.get("add_prefix_space")
    return default if given is None else bool(given)


_PARTS = {
    "Qwen2Tokenizer": _qwen(QWEN2_PATTERN),
    "Qwen3_5Tokenizer": _qwen(QWEN3_5_PATTERN),
    "LlamaTokenizer": _llama,
    "GPT2Tokenizer": _gpt2,
    "GPTNeoXTokenizer": _gpt_neox,
    "GemmaTokenizer": _gemma,
    "CohereTokenizer": _cohere,
}
