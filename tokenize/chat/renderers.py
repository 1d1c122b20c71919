"""Models whose chats are not rendered by a jinja template.

Source: vLLM 0.32, `renderers/registry.py`, `config/model.py` (the mode by architecture),
`tokenizers/registry.py` (Mistral, by the files of a repository), `renderers/online_renderer.py` (harmony, by
model type).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection

_BY_ARCHITECTURE = {
    "DeepseekV32ForCausalLM": "deepseek_v32",
    "DeepseekV4ForCausalLM": "deepseek_v4",
    "DeepseekV4ForConditionalGeneration": "deepseek_v4",
    "DeepseekV41ForCausalLM": "deepseek_v41",
    "InklingForCausalLM": "inkling",
    "InklingForConditionalGeneration": "inkling",
    "KimiK3ForConditionalGeneration": "kimi_k3",
}
_BY_MODEL_TYPE = {
    "deepseek_v32": "deepseek_v32",
    "deepseek_v4": "deepseek_v4",
    "deepseek_v41": "deepseek_v41",
    "gpt_oss": "harmony",
    "inkling": "inkling",
    "kimi_k3": "kimi_k3",
}
_MISTRAL_FILES = ("tekken.json", "tokenizer.model.v*")
_MISTRAL_WEIGHTS = "consolidated*.safetensors"
_OWN_TEMPLATES = frozenset(
    {
        *(
            "blip-2",
            "clip",
            "colpali",
            "deepseek_ocr",
            "deepseek_ocr2",
            "deepseek_vl_v2",
            "minicpmv",
            "minicpmv4_6",
        ),
        *("minicpmv4_7", "paligemma", "siglip", "siglip2", "unlimited-ocr", "unlimited_ocr"),
    }
)
"""Model types for which the server brings a template of its own, where the model has none."""


def foreign_renderer(
    model_type: str, architectures: Collection[str], file_names: Collection[str] = ()
) -> str | None:
    """The name of the renderer that the server uses for such a model's chats; None: a chat template.

    `file_names` are those of the model's folder: some models are told by them. A server that is started with
    another `--tokenizer-mode` (`cohere`, `mistral`) renders otherwise, which no file of the model says.
    """
    for architecture in architectures:
        if architecture in _BY_ARCHITECTURE:
            return _BY_ARCHITECTURE[architecture]
    if model_type in _BY_MODEL_TYPE:
        return _BY_MODEL_TYPE[model_type]
    has_weights = bool(fnmatch.filter(file_names, _MISTRAL_WEIGHTS))
    if has_weights and any(fnmatch.filter(file_names, pattern) for pattern in _MISTRAL_FILES):
        return "mistral"
    return None


def brings_own_template(model_type: str) -> bool:
    """Whether the server has a chat template for a model of this type that has none in its files."""
    return model_type in _OWN_TEMPLATES
