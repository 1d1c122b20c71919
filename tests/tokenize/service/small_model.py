"""A folder with a small tokenizer and a chat template, as a model server would serve it."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

TEMPLATE = (
    "{%- for tool in tools or [] %}<|tool|>{{ tool | tojson }}{% endfor -%}"
    "{%- for document in documents or [] %}<|tool|>{{ document.title }}{% endfor -%}"
    "{%- for message in messages -%}"
    "<|turn|>{{ message.role }}:{{ message.content if message.content is string else '' }}"
    "{%- if message.name is defined %}({{ message.name }}){% endif -%}"
    "{%- for call in message.tool_calls or [] -%}"
    "<|tool|>{{ call.function.name }}{{ call.function.arguments | tojson }}"
    "{%- endfor -%}"
    "{%- if message.role == 'forbidden' %}{{ raise_exception('no such role here') }}{% endif -%}"
    "{%- endfor -%}"
    "{%- if style is defined %}<|tool|>{{ style }}{% endif -%}"
    "{%- if reasoning_effort is defined %}<|tool|>{{ reasoning_effort }}{% endif -%}"
    "{%- if add_generation_prompt %}<|turn|>assistant:{% endif -%}"
)


def write_small_model(folder: Path) -> Path:
    """Every byte is a token; `<|begin|>` is put before a plain completion."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: place for place, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|begin|>", "<|turn|>", "<|tool|>"])
    begin = tokenizer.token_to_id("<|begin|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", pair="<|begin|> $A $B", special_tokens=[("<|begin|>", begin)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"chat_template": TEMPLATE, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"model_type": "small"}), encoding="utf-8")
    return folder
