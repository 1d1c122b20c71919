"""Write a tiny Qwen2 model with random weights: `python tiny_model.py FOLDER`.

It runs by the model server's own Python. The weights are drawn wide: with narrow ones the output
hardly depends on the KV cache, and a server that reused a wrong block would still answer the same.
"""

from __future__ import annotations

import sys

VOCABULARY = 2048
WEIGHT_DEVIATION = 0.25


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


def write_model(folder: str) -> None:
    """Writes configuration and weights: two layers, 64 wide, a few hundred kilobytes."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(1)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=VOCABULARY,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=4096,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    ).float()
    for name, weight in model.named_parameters():
        if "norm" in name:
            weight.data.fill_(1.0)
        else:
            weight.data.normal_(0.0, WEIGHT_DEVIATION)
    model.save_pretrained(folder)


if __name__ == "__main__":
    write_tokenizer(sys.argv[1])
    write_model(sys.argv[1])
