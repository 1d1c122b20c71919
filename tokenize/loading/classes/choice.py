"""Which class transformers makes of a tokenizer's files: some of them replace parts of `tokenizer.json`.

Source: transformers 5.19 (`AutoTokenizer.from_pretrained` and its tables), called as vLLM 0.32 does: with
the path of a folder, so that its list of models by name never applies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvatlas.tokenize.loading.classes.class_tables import (
    GENERIC,
    GENERIC_FOR_VLLM,
    MODEL_TYPE_TO_CLASS,
    OTHER_CLASSES,
    REBUILDING,
    WRONG_HUB_CLASS,
)


def class_of(tokenizer_config: Mapping[str, Any], model_config: Mapping[str, Any]) -> tuple[str, str]:
    """(class, doubt): the class that a server ends with, and a clause where that, or what the class does,
    is not certain; else empty."""
    model_type = _text(model_config.get("model_type"))
    if model_type in GENERIC_FOR_VLLM:
        return GENERIC, ""
    has_own_code = _has_own_code(tokenizer_config)
    if has_own_code and model_type not in WRONG_HUB_CLASS:
        return GENERIC, "the model brings tokenizer code of its own (auto_map), which is not run here"
    named = _text(tokenizer_config.get("tokenizer_class")) or _text(model_config.get("tokenizer_class"))
    registered = MODEL_TYPE_TO_CLASS.get(model_type)
    name = _chosen(model_type, named.removesuffix("Fast"), registered, has_own_code)
    if name in REBUILDING or name == GENERIC:
        return name, ""
    if name.removesuffix("Tokenizer") in OTHER_CLASSES:
        return GENERIC, f"transformers' {name} may replace parts of tokenizer.json"
    # A name that transformers does not know, or one of its generic ones.
    return GENERIC, ""


def _chosen(model_type: str, named: str, registered: str | None, has_own_code: bool) -> str:
    if not named:
        return registered or GENERIC
    if registered is None or registered == named or has_own_code:
        return named
    if registered == GENERIC:
        return GENERIC
    return registered if model_type in WRONG_HUB_CLASS else named


def _has_own_code(tokenizer_config: Mapping[str, Any]) -> bool:
    auto_map = tokenizer_config.get("auto_map")
    if isinstance(auto_map, Mapping):
        auto_map = auto_map.get("AutoTokenizer")
    return bool(auto_map)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
