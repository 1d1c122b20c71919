"""Write a tiny model with random weights: `python tiny_model.py FOLDER plain|windowed`.

A tokenizer that lies in the folder already stays, and the model has a vocabulary for it. It runs by
the model server's own Python. The weights are drawn wide: with narrow ones the output hardly depends on
the KV cache, and a server that reused a wrong block would still answer the same.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

VOCABULARY = 2048
WINDOW_TOKENS = 128
WEIGHT_DEVIATION = 0.25

_SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def write_tokenizer(folder: str) -> None:
    """Writes a tokenizer with a word for each token id, `t0` to `t2047`: the tests send ids."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"t{token}": token for token in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="t0", pad_token="t0", bos_token="t1", eos_token="t2"
    ).save_pretrained(folder)


def vocabulary_of(tokenizer_file: Path) -> int:
    """One more than the largest id, at least VOCABULARY."""
    told = json.loads(tokenizer_file.read_bytes())
    ids: list[int] = [*told["model"]["vocab"].values(), *(token["id"] for token in told["added_tokens"])]
    return max(VOCABULARY, max(ids) + 1)


def write_model(folder: str, kind: str, vocabulary: int) -> None:
    """Writes configuration and weights: 64 wide, a few hundred kilobytes beside the vocabulary's."""
    import torch

    torch.manual_seed(1)
    model = (_windowed if kind == "windowed" else _plain)({**_SHAPE, "vocab_size": vocabulary})
    for name, weight in model.float().named_parameters():
        if "norm" in name:
            # Gemma's norms add one to their weight.
            weight.data.fill_(0.0 if kind == "windowed" else 1.0)
        else:
            weight.data.normal_(0.0, WEIGHT_DEVIATION)
    model.save_pretrained(folder)


def _plain(shape: dict[str, Any]) -> Any:
    """Two layers that attend to everything."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(num_hidden_layers=2, **shape))


def _windowed(shape: dict[str, Any]) -> Any:
    """Six layers, of which four see WINDOW_TOKENS only: three groups of KV cache, of two layers each."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(
        num_hidden_layers=6,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2,
        sliding_window=WINDOW_TOKENS,
        head_dim=32,
        query_pre_attn_scalar=32,
        **shape,
    )
    return Gemma3ForCausalLM(config)


if __name__ == "__main__":
    tokenizer_file = Path(sys.argv[1], "tokenizer.json")
    if not tokenizer_file.exists():
        write_tokenizer(sys.argv[1])
    write_model(sys.argv[1], sys.argv[2], vocabulary_of(tokenizer_file))
