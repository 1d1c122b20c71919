"""Folders with the files of a small tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, processors

from tests.models.tokenizer_kinds import byte_level_bpe, with_tokens

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|a|>{{ m.role }}\n{{ m.content }}<|b|>{% endfor %}"
    "{% if add_generation_prompt %}<|a|>assistant\n{% endif %}"
)
CONFIG: dict[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<|ab|>",
    "chat_template": TEMPLATE,
}


def small_tokenizer(*more: str | AddedToken) -> Tokenizer:
    """Byte-level, with <|a|>, <|b|>, <|ab|>, </s> and `more`; <|ab|> goes before a completion."""
    tokenizer = with_tokens(byte_level_bpe(), ("<|a|>", "<|b|>", "<|ab|>", "</s>", *more))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|ab|> $A",
        pair="<|ab|> $A $B",
        special_tokens=[("<|ab|>", tokenizer.token_to_id("<|ab|>"))],
    )
    return tokenizer


def write_model(folder: Path, tokenizer: Tokenizer | None = None, **files: Any) -> Path:
    """Writes `tokenizer.json`, and each of `files` (`tokenizer_config` and the like) as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    (tokenizer or small_tokenizer()).save(str(folder / "tokenizer.json"))
    for name, content in {"tokenizer_config": CONFIG, **files}.items():
        if content is not None:
            (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def write_cached(cache: Path, model: str, commit: str = "c0ffee", **files: Any) -> Path:
    """As the hub's library lays a model out in its cache; returns the snapshot's folder."""
    home = cache / ("models--" + model.replace("/", "--"))
    (home / "refs").mkdir(parents=True, exist_ok=True)
    (home / "refs" / "main").write_text(commit, encoding="ascii")
    return write_model(home / "snapshots" / commit, **files)
