"""A tokenizer from files: texts and chats to ids, what it says of itself, whether it is current."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from kvatlas.index.errors import InputError, TemplateError, TokenizerError, UnsupportedModelError
from kvatlas.tokenize.chat.chat import Chat, Media
from kvatlas.tokenize.config import TokenizeConfig, TokenizeLimits
from kvatlas.tokenize.loading.files import Place
from kvatlas.tokenize.local import LocalTokenizer
from tests.tokenize.loading.model_files import CONFIG, small_tokenizer, write_model

pytestmark = pytest.mark.timeout(120)
MESSAGES = [{"role": "user", "content": "The dog isn't lazy\n12345"}]
RENDERED = "<|ab|><|a|>user\nThe dog isn't lazy\n12345<|b|><|a|>assistant\n"


def local(folder: Path, settings: TokenizeConfig | None = None, **files: Any) -> LocalTokenizer:
    return LocalTokenizer("m", Place(write_model(folder, **files)), settings or TokenizeConfig())


def plain(text: str, *, add_special_tokens: bool) -> list[int]:
    ids: Sequence[int] = small_tokenizer().encode(text, add_special_tokens=add_special_tokens).ids
    return list(ids)


@pytest.mark.slow
@pytest.mark.parametrize("add_special_tokens", [True, False])
@pytest.mark.parametrize("text", ["", "The dog", "a<|a|>b</s>\n\n日本", "<|ab|>" * 3])
def test_ids_of_a_completion_are_the_librarys(tmp_path: Path, text: str, add_special_tokens: bool) -> None:
    tokenizer = local(tmp_path)
    for _ in range(2):
        prompt = tokenizer.encode(text, add_special_tokens=add_special_tokens)
        assert prompt.token_ids.dtype == np.uint32
        assert prompt.token_ids.tolist() == plain(text, add_special_tokens=add_special_tokens)
        assert prompt.served_by == f"files:{tmp_path}"


def test_several_completions_are_each_as_one_alone(tmp_path: Path) -> None:
    tokenizer = local(tmp_path)
    texts = ["The dog", "", "The dog<|a|>", "日本" * 50]
    many = tokenizer.encode_many(texts)
    assert [prompt.token_ids.tolist() for prompt in many] == [
        plain(text, add_special_tokens=True) for text in texts
    ]
    assert tokenizer.encode_many([]) == []


def test_ids_of_a_chat_are_those_of_its_text_without_more_special_tokens(tmp_path: Path) -> None:
    tokenizer = local(tmp_path)
    assert tokenizer.render_chat(Chat(messages=MESSAGES)) == RENDERED
    ids = tokenizer.encode_chat(Chat(messages=MESSAGES)).token_ids.tolist()
    assert ids == plain(RENDERED, add_special_tokens=False)
    more = tokenizer.encode_chat(Chat(messages=MESSAGES, add_special_tokens=True)).token_ids.tolist()
    assert more == [small_tokenizer().token_to_id("<|ab|>"), *ids]


def test_template_sees_the_special_tokens_of_the_effective_tokenizer(tmp_path: Path) -> None:
    # Qwen2's class knows no token that begins a text unless the configuration does.
    config = {**CONFIG, "tokenizer_class": "Qwen2Tokenizer", "bos_token": None}
    text = local(tmp_path, tokenizer_config=config).render_chat(Chat(messages=MESSAGES))
    assert text == RENDERED.removeprefix("<|ab|>")


def test_placeholders_become_as_many_tokens_as_the_media_have(tmp_path: Path) -> None:
    image_id = small_tokenizer("<|image|>").token_to_id("<|image|>")
    template = (
        "{% for m in messages %}{% for part in m.content %}"
        "{{ '<|image|>' if part.type == 'image' else part.text }}{% endfor %}{% endfor %}"
    )
    tokenizer = local(
        tmp_path,
        tokenizer=small_tokenizer("<|image|>"),
        tokenizer_config={**CONFIG, "chat_template": template},
        config={"model_type": "qwen2_5_vl", "image_token_id": image_id},
    )
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}, image]}]
    chat = Chat(messages=messages, media=[Media(identifier="hash", n_tokens=5)])
    prompt = tokenizer.encode_chat(chat)
    assert prompt.token_ids.tolist()[-5:] == [image_id] * 5
    assert prompt.features == (("hash", len(prompt.token_ids) - 5, 5),)
    with pytest.raises(InputError):
        tokenizer.encode_chat(Chat(messages=messages))


def test_offsets_are_in_characters(tmp_path: Path) -> None:
    text = "日本 dog<|a|>"
    ids, offsets = local(tmp_path).offsets(text, add_special_tokens=False)
    assert ids.tolist() == plain(text, add_special_tokens=False)
    assert offsets.shape == (len(ids), 2) and offsets[-1].tolist() == [len(text) - 5, len(text)]


@pytest.mark.slow
@pytest.mark.parametrize("text", ["\ud800", "ok" * 100 + "\udfff", "a" * 2000, "日" * 700, None, b"x"])
def test_bad_text_is_an_input_error(tmp_path: Path, text: Any) -> None:
    tokenizer = local(tmp_path, TokenizeConfig(limits=TokenizeLimits(text_bytes_max=2000 - 1)))
    for ask in (tokenizer.encode, tokenizer.offsets, lambda text: tokenizer.encode_many([text])):
        with pytest.raises(InputError):
            ask(text)
    if isinstance(text, str):
        with pytest.raises(InputError):
            tokenizer.encode_chat(Chat(messages=[{"role": "user", "content": text}]))


def test_lone_surrogate_in_a_chat_is_named_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\$\.messages\[0\]\.content"):
        local(tmp_path).encode_chat(Chat(messages=[{"role": "user", "content": "a\ud800"}]))


def test_model_without_a_template_encodes_completions_all_the_same(tmp_path: Path) -> None:
    tokenizer = local(tmp_path, tokenizer_config={})
    assert len(tokenizer.encode("The dog").token_ids) > 0
    with pytest.raises(UnsupportedModelError, match="template"):
        tokenizer.encode_chat(Chat(messages=MESSAGES))


def test_template_that_does_not_parse_spoils_chats_alone(tmp_path: Path) -> None:
    tokenizer = local(tmp_path, tokenizer_config={**CONFIG, "chat_template": "{% for"})
    assert len(tokenizer.encode("The dog").token_ids) > 0
    for _ in range(2):
        with pytest.raises(TemplateError):
            tokenizer.encode_chat(Chat(messages=MESSAGES))


def test_model_whose_chats_only_its_pod_can_tell_is_said(tmp_path: Path) -> None:
    tokenizer = local(tmp_path, config={"model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"]})
    assert len(tokenizer.encode("The dog").token_ids) > 0
    with pytest.raises(UnsupportedModelError):
        tokenizer.encode_chat(Chat(messages=MESSAGES))


def test_what_is_in_doubt_is_logged_once_and_stays_in_statistics(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = {**CONFIG, "tokenizer_class": "WhisperTokenizer"}
    with caplog.at_level(logging.WARNING):
        tokenizer = local(tmp_path, tokenizer_config=config)
        tokenizer.encode("a")
    assert [record.message.count("kvatlas tokenize check") for record in caplog.records] == [1]
    assert "WhisperTokenizer" in tokenizer.statistics().exactness


def test_statistics_count_what_was_answered(tmp_path: Path) -> None:
    tokenizer = local(tmp_path)
    tokenizer.encode("The dog<|a|>The dog")
    statistics = tokenizer.statistics()
    assert (statistics.model, statistics.served_by) == ("m", f"files:{tmp_path}")
    assert statistics.exactness
    assert statistics.counts["answers"] == 1


def test_changed_file_is_noticed(tmp_path: Path) -> None:
    tokenizer = local(tmp_path)
    assert tokenizer.is_current()
    (tmp_path / "chat_template.jinja").write_text("new")
    assert not tokenizer.is_current()


def test_closed_tokenizer_still_answers_and_holds_nothing(tmp_path: Path) -> None:
    tokenizer = local(tmp_path)
    tokenizer.encode("The dog<|a|>")
    tokenizer.close()
    tokenizer.close()
    assert tokenizer.statistics().counts["memo_pieces"] == 0
    assert tokenizer.encode("The dog").token_ids.tolist() == plain("The dog", add_special_tokens=True)


def test_threads_and_closes_beside_each_other_give_the_same_ids(tmp_path: Path) -> None:
    tokenizer = local(tmp_path, TokenizeConfig(check_share=0.0))
    chats = [Chat(messages=MESSAGES * n) for n in range(1, 9)]
    expected = [plain(tokenizer.render_chat(chat), add_special_tokens=False) for chat in chats]

    def ask(number: int) -> bool:
        if number % 10 == 0:
            tokenizer.close()
        ids: list[int] = tokenizer.encode_chat(chats[number % 8]).token_ids.tolist()
        return ids == expected[number % 8]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(400)))


@pytest.mark.parametrize(
    "config",
    [
        {"added_tokens_decoder": {"x": {}}},
        {"added_tokens_decoder": [1]},
        {"added_tokens_decoder": {"1": {"content": 5}}},
        {"bos_token": 5},
        {"bos_token": {"content": None}},
        {"bos_token": {"nothing": 1}},
        {"extra_special_tokens": [5]},
        {"extra_special_tokens": {"a": 5}},
        {"chat_template": 5},
        {"chat_template": [{"name": 1}]},
        {"tokenizer_class": "Qwen2Tokenizer", "unk_token": []},
        {"bos_token": "\ud800"},
    ],
    ids=str,
)
def test_configuration_that_makes_no_sense_is_one_error(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer.*\.json"):
        local(tmp_path, tokenizer_config=config)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3", "gpt-oss"])
def test_real_tokenizers_give_the_librarys_ids(shared: Path, name: str) -> None:
    folder = shared / "tokenizers" / name
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer = LocalTokenizer(name, Place(folder), TokenizeConfig())
    assert tokenizer.doubt == ""
    for text in (
        "",
        "The dog isn't lazy.\n\n12345 日本語 <|im_start|>user\r\n",
        "<|endoftext|>" * 2,
        " " * 99,
    ):
        assert tokenizer.encode(text).token_ids.tolist() == reference.encode(text).ids
