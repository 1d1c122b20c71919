"""The tokenizer that a server really uses: parts that its class replaces, tokens that it adds."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from kvatlas.index.errors import TokenizerError
from kvatlas.tokenize.loading.classes.effective import Effective, effective
from kvatlas.tokenize.loading.classes.rebuilding import QWEN2_PATTERN
from kvatlas.tokenize.loading.files import Place, TokenizerFiles, read_files
from tests.models.tokenizer_kinds import metaspace_bpe, unigram
from tests.profiles import examples
from tests.tokenize.loading.model_files import small_tokenizer, write_model


def made(folder: Path, tokenizer: Tokenizer | None = None, **config: Any) -> Effective:
    config.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
    extra = {name: config.pop(name, None) for name in ("config", "special_tokens_map", "added_tokens")}
    return effective(read_files(Place(write_model(folder, tokenizer, tokenizer_config=config, **extra))))


def definition(of: Effective) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(of.tokenizer.to_str())
    return parsed


def added(of: Effective) -> dict[str, dict[str, Any]]:
    return {token["content"]: token for token in definition(of)["added_tokens"]}


def test_generic_class_takes_the_definition_as_it_is(tmp_path: Path) -> None:
    result = made(tmp_path)
    assert definition(result) == json.loads(small_tokenizer().to_str())
    assert result.doubt == ""


def test_qwen2_brings_its_own_pre_tokenizer_and_normalizer(tmp_path: Path) -> None:
    found = definition(made(tmp_path, tokenizer_class="Qwen2Tokenizer"))
    assert found["normalizer"] == {"type": "NFC"}
    split, byte_level = found["pre_tokenizer"]["pretokenizers"]
    assert split["pattern"] == {"Regex": QWEN2_PATTERN}
    assert byte_level["add_prefix_space"] is False
    # Vocabulary, merges, post-processor and added tokens are the definition's.
    own = json.loads(small_tokenizer().to_str())
    assert found["model"]["vocab"] == own["model"]["vocab"]
    assert found["model"]["merges"] == own["model"]["merges"]
    assert found["post_processor"] == own["post_processor"]
    assert {token["content"] for token in own["added_tokens"]} <= {
        t["content"] for t in found["added_tokens"]
    }


def test_ids_really_change_with_the_class(tmp_path: Path) -> None:
    # The definition's pre-tokenizer (GPT-2's) keeps digits together, Qwen2's does not.
    text = "12345"
    generic = made(tmp_path / "a").tokenizer.encode(text, add_special_tokens=False).ids
    qwen = made(tmp_path / "b", tokenizer_class="Qwen2Tokenizer").tokenizer
    digits = [qwen.token_to_id(digit) for digit in text]
    assert qwen.encode(text, add_special_tokens=False).ids == digits != generic


@pytest.mark.parametrize(
    ("config", "scheme"),
    [
        ({}, "first"),
        ({"legacy": True}, "always"),
        ({"legacy": None}, "first"),
        ({"add_prefix_space": False}, "never"),
    ],
)
def test_llama_puts_spaces_as_its_configuration_says(
    tmp_path: Path, config: dict[str, Any], scheme: str
) -> None:
    result = made(tmp_path, metaspace_bpe("never"), tokenizer_class="LlamaTokenizer", **config)
    found = definition(result)
    assert found["pre_tokenizer"]["prepend_scheme"] == scheme
    assert found["normalizer"] is None
    assert (found["model"]["byte_fallback"], found["model"]["fuse_unk"]) == (True, True)
    assert result.doubt == ""


def test_byte_level_definition_of_a_llama_leaves_a_doubt(tmp_path: Path) -> None:
    assert "LlamaTokenizer" in made(tmp_path, tokenizer_class="LlamaTokenizer").doubt


def test_class_for_bpe_leaves_another_vocabulary_alone_and_says_so(tmp_path: Path) -> None:
    result = made(tmp_path, unigram(), tokenizer_class="Qwen2Tokenizer")
    assert "BPE" in result.doubt
    assert definition(result)["model"]["type"] == "Unigram"


def test_tokens_of_the_configuration_are_added(tmp_path: Path) -> None:
    own = AddedToken("own", normalized=False, special=True).__getstate__()
    result = made(tmp_path, added_tokens_decoder={"5000": {**own, "content": "<|new|>", "rstrip": True}})
    # The next free id, whatever the configuration says.
    assert added(result)["<|new|>"]["id"] == small_tokenizer().get_vocab_size()
    assert added(result)["<|new|>"]["rstrip"] is True


def test_token_that_is_there_already_takes_the_configurations_flags(tmp_path: Path) -> None:
    token = {"content": "</s>", "lstrip": True, "normalized": False, "special": True}
    result = made(tmp_path, added_tokens_decoder={"9": token})
    assert added(result)["</s>"]["lstrip"] is True
    assert added(result)["</s>"]["id"] == small_tokenizer().token_to_id("</s>")


def test_special_tokens_become_added_tokens_and_variables(tmp_path: Path) -> None:
    result = made(
        tmp_path,
        bos_token="</s>",
        eos_token={"__type": "AddedToken", "content": "<|end|>"},
        unk_token=None,
        image_token="<|image|>",
        extra_special_tokens={"box": "<|box|>"},
        add_bos_token=True,
    )
    assert result.special_tokens == {
        "bos_token": "</s>",
        "eos_token": "<|end|>",
        "image_token": "<|image|>",
        "box": "<|box|>",
    }
    assert {"<|end|>", "<|image|>", "<|box|>"} <= added(result).keys()


def test_class_names_special_tokens_where_the_configuration_does_not(tmp_path: Path) -> None:
    assert made(tmp_path / "a", tokenizer_class="Qwen2Tokenizer").special_tokens == {
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    named = made(tmp_path / "b", tokenizer_class="Qwen2Tokenizer", unk_token=None, eos_token="</s>")
    assert named.special_tokens == {"eos_token": "</s>", "pad_token": "<|endoftext|>"}


def test_older_files_count_only_where_the_configuration_lists_no_tokens(tmp_path: Path) -> None:
    older: dict[str, Any] = {
        "special_tokens_map": {"bos_token": {"content": "</s>", "lstrip": True}},
        "added_tokens": {"<|older|>": 700},
    }
    assert "bos_token" not in made(tmp_path / "a", added_tokens_decoder={}, **older).special_tokens
    legacy = made(tmp_path / "b", **older)
    assert legacy.special_tokens == {"bos_token": "</s>"}
    assert added(legacy)["<|older|>"]["normalized"] is True


def test_additional_special_tokens_are_added(tmp_path: Path) -> None:
    result = made(tmp_path, additional_special_tokens=["<|one|>", "<|a|>"])
    assert added(result)["<|one|>"]["special"] is True


def test_split_special_tokens_are_not_found_in_texts(tmp_path: Path) -> None:
    def ids(split: bool) -> list[int]:
        tokenizer = made(tmp_path / str(split), split_special_tokens=split).tokenizer
        return tokenizer.encode("x<|a|>", add_special_tokens=False).ids

    assert len(ids(False)) == 2 < len(ids(True))


@pytest.mark.parametrize(
    ("field", "value"), [("fix_mistral_regex", True), ("fast_tokenizer_files", ["tokenizer.4.0.json"])]
)
def test_what_is_not_followed_leaves_a_doubt(tmp_path: Path, field: str, value: Any) -> None:
    assert field in made(tmp_path, **{field: value}).doubt


@pytest.mark.parametrize("prefix", ["x", "##", "Ġ" * 9, 5])
def test_prefix_that_no_merge_fits_is_an_error_and_not_the_end_of_the_process(prefix: object) -> None:
    parsed = json.loads(_DEFINITION)
    parsed["model"]["continuing_subword_prefix"] = prefix
    files = TokenizerFiles(Place(Path("/m")), (), json.dumps(parsed), {}, None, None, {}, None, {}, None, ())
    with pytest.raises(TokenizerError, match=r"/m/tokenizer\.json"):
        effective(files)


@settings(max_examples=examples(150))
@given(data=st.data())
def test_definition_with_a_part_replaced_loads_or_is_one_error(data: st.DataObject) -> None:
    parsed = json.loads(_DEFINITION)
    path = data.draw(st.sampled_from(list(_paths(parsed))))
    junk = st.sampled_from(
        [None, True, -1, 1 << 70, 0.5, "", "x", "\ud800", [], [None], {}, {"type": "Metaspace"}]
    )
    node = parsed
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = data.draw(junk)
    files = TokenizerFiles(Place(Path("/m")), (), json.dumps(parsed), {}, None, None, {}, None, {}, None, ())
    for class_name in ("PreTrainedTokenizerFast", "Qwen2Tokenizer"):
        changed = files._replace(tokenizer_config={"tokenizer_class": class_name})
        with contextlib.suppress(TokenizerError):
            effective(changed).tokenizer.get_vocab_size()


_DEFINITION = small_tokenizer().to_str()


def _paths(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Places in a definition; of long lists and large vocabularies a few."""
    steps: list[Any] = []
    if isinstance(node, dict):
        steps = list(node)
    elif isinstance(node, list):
        steps = list(range(len(node)))
    for step in steps[:12]:
        yield (*path, step)
        yield from _paths(node[step], (*path, step))
