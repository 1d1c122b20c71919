"""A tokenizer's definition as the library has understood it, without its vocabulary."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

_ADDED_TOKEN_FIELDS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")


def definition_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """In the form of a parsed `tokenizer.json`, with `encode_special_tokens` besides.

    Not `json.loads(tokenizer.to_str())`: that holds the GIL for the time that a vocabulary takes (0.7 s for
    gpt-oss), and leaves options out that are set on the object only.
    """
    return {
        "truncation": tokenizer.truncation,
        "padding": tokenizer.padding,
        "encode_special_tokens": tokenizer.encode_special_tokens,
        "added_tokens": [_added_token(n, token) for n, token in tokenizer.get_added_tokens_decoder().items()],
        "normalizer": _component(tokenizer.normalizer),
        "pre_tokenizer": _component(tokenizer.pre_tokenizer),
        "post_processor": _component(tokenizer.post_processor),
        "model": _model(tokenizer.model),
    }


def _added_token(token_id: int, token: AddedToken) -> dict[str, Any]:
    return {"id": token_id, **{field: getattr(token, field) for field in _ADDED_TOKEN_FIELDS}}


def _component(component: Any) -> dict[str, Any] | None:
    if component is None:
        return None
    try:
        parsed: dict[str, Any] = json.loads(component.__getstate__())
    except Exception:  # written in Python by somebody: the library cannot say what it is
        return {"type": f"{type(component).__name__} (not of the library)"}
    return parsed


def _model(model: Any) -> dict[str, Any]:
    options = {name: getattr(model, name) for name in dir(model) if not name.startswith("_")}
    return {"type": type(model).__name__, **{n: value for n, value in options.items() if not callable(value)}}
