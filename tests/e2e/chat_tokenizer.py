"""A tokenizer with a chat template for the tiny model: small, and with what real ones trip over.

Byte-level BPE of some 1000 tokens, a post-processor that writes a first token, special tokens that a text
may contain, and a template that loops over content parts, knows developers, tools, documents and reasoning.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SPECIAL_TOKENS = ("<|pad|>", "<|begin|>", "<|end|>", "<|role|>", "<|text|>", "<think>", "</think>")
_PAD, _BEGIN, _END = SPECIAL_TOKENS[:3]
_TOKENS_MAX = 1000

_CORPUS = (
    "the router asks the atlas which server holds the blocks of this prompt",
    "a cache hit costs nothing; a miss costs a prefill of the whole prompt",
    "What is the weather in Paris? Please call the tool with a city and a unit.",
    '{"name": "get_weather", "arguments": {"city": "Paris", "unit": "celsius"}}',
    "def score(tokens):\n    return sum(1 for token in tokens if token in held)\n",
    "1 2 3 10 100 1000 2024 3.14159 -> 42\r\n\r\n\tand so on, and on",
    "naïve café, größer, señor, Привет, 你好, こんにちは, שלום, 🙂",
)

CHAT_TEMPLATE = """\
{%- macro text_of(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- elif content is not none -%}
        {%- for part in content -%}
            {%- if part.type == 'text' -%}{{- part.text -}}{%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{{- bos_token -}}
{%- if tools -%}
    {{- '<|role|>tools<|text|>' -}}
    {%- for tool in tools -%}
        {{- tool | tojson + '\\n' -}}
    {%- endfor -%}
    {{- eos_token -}}
{%- endif -%}
{%- if documents -%}
    {%- for document in documents -%}
        {{- '<|role|>document<|text|>' + document.title | upper + '\\n' + document.text + eos_token -}}
    {%- endfor -%}
{%- endif -%}
{%- for message in messages -%}
    {%- if message.role not in ['system', 'developer', 'user', 'assistant', 'tool'] -%}
        {{- raise_exception('unknown role ' + message.role) -}}
    {%- endif -%}
    {%- set role = 'boss' if message.role == "developer" else message.role -%}
    {{- '<|role|>' + role + (' ' + message.name if message.name else '') + '<|text|>' -}}
    {%- if message.reasoning_content and loop.last -%}
        {{- '<think>' + message.reasoning_content + '</think>' -}}
    {%- endif -%}
    {%- if message.role == 'user' -%}
        {{- text_of(message.content) | trim -}}
    {%- else -%}
        {{- text_of(message.content) -}}
    {%- endif -%}
    {%- for call in message.tool_calls or [] -%}
        {{- '\\n' + call.function.name + call.function.arguments | tojson -}}
    {%- endfor -%}
    {{- eos_token + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|role|>assistant<|text|>' + ('<think>' if enable_thinking else '') -}}
{%- endif -%}
"""


def write_chat_tokenizer(folder: Path) -> None:
    """Writes `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_TOKENS_MAX,
        special_tokens=[AddedToken(content, special=True, normalized=False) for content in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_BEGIN} $A",
        pair=f"{_BEGIN} $A {_BEGIN} $B",
        special_tokens=[(_BEGIN, tokenizer.token_to_id(_BEGIN))],
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(_configuration(), indent=1))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def _configuration() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": _BEGIN,
        "eos_token": _END,
        "pad_token": _PAD,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
    }
