"""Models whose chats no template renders are told."""

from __future__ import annotations

import pytest

from kvatlas.tokenize.chat.renderers import brings_own_template, foreign_renderer


@pytest.mark.parametrize(
    ("model_type", "architecture", "renderer"),
    [
        ("gpt_oss", "GptOssForCausalLM", "harmony"),
        ("deepseek_v32", "DeepseekV32ForCausalLM", "deepseek_v32"),
        ("deepseek_v3", "DeepseekV3ForCausalLM", None),
        ("other", "DeepseekV4ForConditionalGeneration", "deepseek_v4"),
        ("kimi_k3", "KimiK3ForConditionalGeneration", "kimi_k3"),
        ("qwen3", "Qwen3ForCausalLM", None),
        ("", "", None),
    ],
)
def test_renderers_go_by_kind_of_model(model_type: str, architecture: str, renderer: str | None) -> None:
    assert foreign_renderer(model_type, [architecture]) == renderer


def test_mistrals_own_format_goes_by_its_files() -> None:
    weights = "consolidated-00001-of-00002.safetensors"
    assert foreign_renderer("mistral", [], [weights, "tekken.json"]) == "mistral"
    assert foreign_renderer("mistral", [], [weights, "tokenizer.model.v3"]) == "mistral"
    assert foreign_renderer("mistral", [], ["model.safetensors", "tekken.json"]) is None
    assert foreign_renderer("mistral", [], [weights, "tokenizer.json"]) is None


def test_some_models_get_a_template_of_the_server() -> None:
    assert brings_own_template("paligemma") and not brings_own_template("qwen3")
