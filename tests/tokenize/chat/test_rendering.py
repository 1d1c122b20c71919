"""Chats are rendered as vLLM renders them."""

from __future__ import annotations

import copy
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from kvatlas.index.errors import InputError, TemplateError, UnsupportedModelError
from kvatlas.tokenize.chat.chat import Chat, Media
from kvatlas.tokenize.chat.rendering import ChatRenderer
from kvatlas.tokenize.chat.request import chat_of
from kvatlas.tokenize.chat.template_files import TemplateFiles, template_files
from kvatlas.tokenize.config import TokenizeLimits

_RECORDED = json.loads(Path(__file__).with_name("recorded_chats.json").read_text(encoding="utf-8"))
"""Requests with the texts that vLLM 0.32 made of them, with Qwen3's files and these templates."""

_CHATML = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_PARTS = (
    "{% for message in messages %}{% for part in message.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% else %}<{{ part.type }}>{% endif %}"
    "{% endfor %}{% endfor %}"
)
_USER = {"role": "user", "content": "hi"}
_PICTURE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}


def _renderer(
    template: str | None = _CHATML, *, request_templates: bool = False, limits: Any = None, **files: Any
) -> ChatRenderer:
    templates = {} if template is None else {"default": template}
    return ChatRenderer(
        TemplateFiles(templates=templates, **files),
        limits=limits or TokenizeLimits(),
        request_templates=request_templates,
        model="m",
    )


def _chat(*messages: Any, **fields: Any) -> Chat:
    return Chat(messages=messages or (_USER,), **fields)


@pytest.mark.parametrize("number", range(len(_RECORDED["cases"])))
def test_texts_are_those_of_the_server(number: int, request: pytest.FixtureRequest) -> None:
    case = _RECORDED["cases"][number]
    if case["template"] == "qwen3":
        shared: Path = request.getfixturevalue("shared")
        config = json.loads((shared / "tokenizers/qwen3/tokenizer_config.json").read_text(encoding="utf-8"))
    else:
        template = _RECORDED["templates"][case["template"]]
        config = {"chat_template": template, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    renderer = ChatRenderer(
        template_files(config), limits=TokenizeLimits(), request_templates=False, model="m"
    )
    body = copy.deepcopy(case["body"])
    assert renderer.render(chat_of(body)) == case["text"]
    assert body == case["body"]  # nothing of the caller's has changed


def test_a_chat_of_plain_messages_is_rendered() -> None:
    chat = _chat({"role": "system", "content": "Be brief."}, _USER)
    assert _renderer().render(chat) == "<|system|>Be brief.<|end|><|user|>hi<|end|><|assistant|>"


def test_special_tokens_are_variables_and_a_request_may_set_them() -> None:
    renderer = _renderer("{{ bos_token }}{{ messages[0].content }}", special_tokens={"bos_token": "<s>"})
    assert renderer.render(_chat()) == "<s>hi"
    assert renderer.render(_chat(chat_template_kwargs={"bos_token": "<t>"})) == "<t>hi"


def test_tools_choose_the_template_for_tools() -> None:
    renderer = ChatRenderer(
        TemplateFiles(templates={"default": "plain", "tool_use": "{{ tools[0].function.name }}"}),
        limits=TokenizeLimits(),
        request_templates=False,
        model="m",
    )
    assert renderer.render(_chat()) == "plain"
    assert renderer.render(_chat(tools=[{"function": {"name": "f"}}])) == "f"


def test_a_developer_stays_one_where_the_template_names_the_role() -> None:
    chat = _chat({"role": "developer", "content": "a"}, _USER, add_generation_prompt=False)
    assert _renderer().render(chat) == "<|system|>a<|end|><|user|>hi<|end|>"
    knowing = _CHATML + "{# 'developer' #}"
    assert _renderer(knowing).render(chat) == "<|developer|>a<|end|><|user|>hi<|end|>"


def test_a_request_may_bring_a_template_where_that_is_allowed() -> None:
    named = {"chat_template": "mine"}
    for given in (named, {"chat_template_kwargs": named}, {"chat_template_kwargs": MappingProxyType(named)}):
        assert _renderer(request_templates=True).render(_chat(**given)) == "mine"
        with pytest.raises(
            InputError, match=r"^\$\.chat_template: expected none, got one: .*request_templates"
        ):
            _renderer().render(_chat(**given))


def test_the_requests_own_template_goes_before_one_among_its_arguments() -> None:
    chat = _chat(chat_template="mine", chat_template_kwargs={"chat_template": "other"})
    assert _renderer(request_templates=True).render(chat) == "mine"
    unset = _chat(chat_template="", chat_template_kwargs={"chat_template": "other"})
    assert _renderer(request_templates=True).render(unset) == "other"


@pytest.mark.parametrize("template", [5, ["mine"], {"mine": 1}])
def test_a_template_that_is_no_text_is_refused(template: Any) -> None:
    for given in ({"chat_template": template}, {"chat_template_kwargs": {"chat_template": template}}):
        with pytest.raises(InputError, match=r"^\$\.chat_template: expected a string, got "):
            _renderer(request_templates=True).render(_chat(**given))


def test_a_template_among_the_arguments_renders_what_the_models_own_has_shaped() -> None:
    parts = (
        "{% for message in messages %}{{ message.content is string }}"
        "{% for part in message.content %}{% endfor %}{% endfor %}"
    )
    chat = _chat(chat_template_kwargs={"chat_template": parts})
    assert _renderer(request_templates=True).render(chat) == "True"
    assert _renderer(request_templates=True).render(_chat(chat_template=parts)) == "False"


def test_templates_of_requests_are_kept_in_a_bounded_number() -> None:
    renderer = _renderer(request_templates=True)
    renderer.render(_chat())
    for number in range(40):
        assert renderer.render(_chat(chat_template=f"{number}")) == f"{number}"
    assert renderer.statistics() == {"templates": 17, "templates_dropped": 24}
    assert renderer.render(_chat(chat_template="0")) == "0"


def test_the_last_message_can_be_left_open() -> None:
    answer = {"role": "assistant", "content": "Well, "}
    chat = _chat(_USER, answer, add_generation_prompt=False, continue_final_message=True)
    assert _renderer().render(chat) == "<|user|>hi<|end|><|assistant|>Well, "
    with pytest.raises(
        InputError, match=r"^\$\.continue_final_message: expected add_generation_prompt to be"
    ):
        _renderer().render(_chat(_USER, answer, continue_final_message=True))
    with pytest.raises(InputError, match=r"^\$\.continue_final_message: expected a template that writes"):
        _renderer("nothing").render(chat)


def test_media_are_rendered_where_their_sizes_are_given() -> None:
    message = {"role": "user", "content": [_PICTURE, {"type": "text", "text": "what?"}]}
    media = (Media(identifier="a", n_tokens=5),)
    renderer = _renderer(_PARTS, placeholder_ids=(7,))
    assert renderer.render(_chat(message, media=media)) == "<image>what?"
    with pytest.raises(InputError, match=r"^media: expected identifier and number of tokens of 1 .* got 0"):
        renderer.render(_chat(message))
    with pytest.raises(InputError, match=r"of 0 images.* got 1"):
        renderer.render(_chat(media=media))


@pytest.mark.parametrize("files", [{"template": _PARTS}, {"template": _CHATML, "placeholder_ids": (7,)}])
def test_media_of_models_that_are_not_known_are_refused(files: dict[str, Any]) -> None:
    message = {"role": "user", "content": [_PICTURE]}
    with pytest.raises(
        UnsupportedModelError, match=r"model 'm': expected text alone, got 1 .* not known here"
    ):
        _renderer(**files).render(_chat(message, media=(Media(identifier="a", n_tokens=5),)))


def test_chats_of_models_with_another_renderer_are_for_their_pods() -> None:
    renderer = _renderer(None, model_type="gpt_oss")
    with pytest.raises(UnsupportedModelError, match=r"model 'm': .*'harmony'.* its pod can be asked"):
        renderer.render(_chat())


def test_a_model_without_a_template_says_so() -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"^model 'm': expected a chat template in .* got none; its"
    ):
        _renderer(None).render(_chat())
    with pytest.raises(UnsupportedModelError, match=r"its server brings one for models of type 'paligemma'"):
        _renderer(None, model_type="paligemma").render(_chat())


def test_a_template_that_refuses_is_told_with_its_words() -> None:
    with pytest.raises(TemplateError, match="roles must alternate"):
        _renderer("{{ raise_exception('roles must alternate') }}").render(_chat())


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], r"\$\.messages: expected 1 to 3, got 0"),
        ([_USER] * 4, r"\$\.messages: expected 1 to 3, got 4"),
        ("hi", r"\$\.messages: expected a list, got str"),
        (iter([_USER]), r"\$\.messages: expected a list, got list_iterator"),
    ],
)
def test_the_number_of_messages_is_bounded(messages: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}$"):
        _renderer(limits=TokenizeLimits(messages_max=3)).render(Chat(messages=messages))


def test_the_size_of_a_template_is_bounded() -> None:
    renderer = _renderer(request_templates=True, limits=TokenizeLimits(template_bytes_max=100))
    with pytest.raises(TemplateError, match=r"^m \(\$\.chat_template\): .* at most 100 bytes, got 101"):
        renderer.render(_chat(chat_template="x" * 101))


@pytest.mark.slow
def test_many_threads_render_at_once() -> None:
    renderer = _renderer(request_templates=True)

    def render(number: int) -> str:
        return renderer.render(_chat(chat_template=f"{{{{ messages[0].content }}}}{number % 20}"))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(render, range(200))) == [f"hi{number % 20}" for number in range(200)]
