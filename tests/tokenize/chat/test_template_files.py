"""Templates and special tokens are read as transformers reads them."""

from __future__ import annotations

from typing import Any

import pytest

from kvatlas.index.errors import InputError, TokenizerError
from kvatlas.tokenize.chat.template_files import TemplateFiles, template_files

_ADDED = {"__type": "AddedToken", "content": "<s>", "lstrip": False, "special": True}


def test_the_file_of_its_own_goes_before_the_configuration() -> None:
    files = template_files({"chat_template": "configured"}, "own")
    assert files.source(None, has_tools=False) == files.source(None, has_tools=True) == "own"
    assert template_files({"chat_template": "configured"}).source(None, has_tools=False) == "configured"


def test_a_list_of_templates_goes_by_name() -> None:
    listed = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    files = template_files({"chat_template": listed})
    assert files.source(None, has_tools=False) == "plain"
    assert files.source(None, has_tools=True) == "tools"
    assert files.source("tool_use", has_tools=False) == "tools"
    assert files.source("{{ x }}", has_tools=False) == "{{ x }}"


def test_named_files_replace_the_configuration() -> None:
    files = template_files({"chat_template": "configured"}, None, {"tool_use": "tools"})
    assert files.source(None, has_tools=True) == "tools"
    with pytest.raises(InputError, match=r"^\$\.chat_template: expected one of 'tool_use'.*no default"):
        files.source(None, has_tools=False)


def test_a_processors_template_is_for_requests_without_tools() -> None:
    files = template_files({"chat_template": "tokenizer"}, processor_json={"chat_template": "processor"})
    assert files.source(None, has_tools=False) == "processor"
    assert files.source(None, has_tools=True) == "tokenizer"
    assert files.source("mine", has_tools=False) == "mine"
    alone = template_files({}, processor_json={"chat_template": "processor"})
    assert alone.source(None, has_tools=True) == "processor"


def test_a_model_may_have_none() -> None:
    assert template_files({}).source(None, has_tools=False) is None
    assert TemplateFiles().source(None, has_tools=True) is None


@pytest.mark.parametrize(
    ("config", "mapped", "tokens"),
    [
        ({"bos_token": "<s>", "pad_token": None}, None, {"bos_token": "<s>"}),
        ({"bos_token": _ADDED, "add_bos_token": True}, None, {"bos_token": "<s>"}),
        ({"image_token": "<img>", "foo_token": 5}, None, {"image_token": "<img>"}),
        (
            {"extra_special_tokens": {"image_token": "<img>", "odd": "<o>"}},
            None,
            {"image_token": "<img>", "odd": "<o>"},
        ),
        ({"extra_special_tokens": ["<a>"], "additional_special_tokens": ["<b>"]}, None, {}),
        (
            {"eos_token": "old"},
            {"eos_token": "new", "bos_token": _ADDED},
            {"eos_token": "new", "bos_token": "<s>"},
        ),
        ({"eos_token": "new", "added_tokens_decoder": {}}, {"eos_token": "old"}, {"eos_token": "new"}),
        ({}, {"extra_special_tokens": {"odd": "<o>"}}, {"odd": "<o>"}),
    ],
)
def test_special_tokens_are_named(config: Any, mapped: Any, tokens: dict[str, str]) -> None:
    assert template_files(config, special_tokens_map=mapped).special_tokens == tokens


def test_kind_of_model_comes_from_its_configuration() -> None:
    config = {"model_type": "qwen2_vl", "architectures": ["A"], "image_token_id": 7, "video_token_id": 8}
    files = template_files({}, config=config, file_names=["tokenizer.json"])
    assert (files.model_type, files.architectures, files.placeholder_ids) == ("qwen2_vl", ("A",), (7, 8))
    assert files.file_names == ("tokenizer.json",)
    broken = template_files({}, config={"model_type": 5, "architectures": "A"})
    assert (broken.model_type, broken.architectures, broken.placeholder_ids) == ("", (), ())


@pytest.mark.parametrize(
    ("config", "processor", "message"),
    [
        ({"chat_template": 5}, None, "tokenizer_config.json: chat_template: expected a string, or a list"),
        (
            {"chat_template": [{"name": "x"}]},
            None,
            "tokenizer_config.json: chat_template: expected a string, or",
        ),
        (
            {"chat_template": ["x"]},
            None,
            "tokenizer_config.json: chat_template: expected a string, or a list",
        ),
        ({"bos_token": 5}, None, "tokenizer_config.json: bos_token: expected a token, got int"),
        ({}, {"chat_template": 5}, "chat_template.json: chat_template: expected a string, got int"),
    ],
)
def test_files_that_make_no_sense_are_refused_by_name(config: Any, processor: Any, message: str) -> None:
    with pytest.raises(TokenizerError) as caught:
        template_files(config, processor_json=processor)
    assert str(caught.value).startswith(message)
