"""Reading a tokenizer's files: whatever lies there, one error with its path."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvatlas.index.errors import TokenizerError, UnsupportedModelError
from kvatlas.tokenize.config import TokenizeConfig
from kvatlas.tokenize.loading import files
from kvatlas.tokenize.loading.files import Place, read_files, stamp_of
from kvatlas.tokenize.local import LocalTokenizer
from tests.tokenize.loading.model_files import TEMPLATE, write_model

pytestmark = pytest.mark.timeout(120)


def test_all_files_are_read(tmp_path: Path) -> None:
    write_model(
        tmp_path, config={"model_type": "llama"}, added_tokens={"x": 1}, special_tokens_map={"a": "b"}
    )
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    found = read_files(Place(tmp_path))
    assert found.model_config == {"model_type": "llama"}
    assert found.added_tokens == {"x": 1}
    assert found.special_tokens_map == {"a": "b"}
    assert found.template == TEMPLATE
    assert found.named_templates == {"tool_use": "tools"}
    assert found.processor_config is None
    assert "tokenizer.json" in found.names


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json"])
@pytest.mark.parametrize(
    "content", [b"", b'{"a": ', b"[1]", b'"text"', b"\xff\xfe", b"[" * 100_000], ids=lambda c: repr(c[:9])
)
def test_file_that_is_no_json_object_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    write_model(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=name):
        LocalTokenizer("m", Place(tmp_path), TokenizeConfig())


def test_truncated_definition_is_named(tmp_path: Path) -> None:
    path = write_model(tmp_path) / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: expected"):
        LocalTokenizer("m", Place(tmp_path), TokenizeConfig())


@pytest.mark.parametrize(
    "definition",
    [
        "{}",
        '{"model": 5}',
        '{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": [["a", "b"]]}}',
        '{"model": {"type": "Newest"}, "added_tokens": [{"id": "x"}]}',
    ],
)
def test_definition_of_something_else_is_named(tmp_path: Path, definition: str) -> None:
    write_model(tmp_path)
    (tmp_path / "tokenizer.json").write_text(definition)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: expected a tokenizer's definition"):
        LocalTokenizer("m", Place(tmp_path), TokenizeConfig())


def test_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "config.json").mkdir()
    with pytest.raises(TokenizerError, match=r"config\.json: expected a file"):
        read_files(Place(tmp_path))


def test_fifo_in_the_place_of_a_file_holds_nobody_up(tmp_path: Path) -> None:
    write_model(tmp_path)
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(TokenizerError, match=r"config\.json: expected a file"):
        read_files(Place(tmp_path))


def test_file_beyond_its_bound_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path)
    monkeypatch.setattr(files, "DEFINITION_BYTES_MAX", 100)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: expected at most 100 bytes"):
        read_files(Place(tmp_path))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("qwen.tiktoken", "tiktoken"),
        ("tiktoken.model", "tiktoken"),
        ("tokenizer.model", "SentencePiece"),
        ("tokenizer.model.v3", "SentencePiece"),
        ("tekken.json", "mistral-common"),
        ("vocab.txt", "WordPiece"),
    ],
)
def test_tokenizer_of_another_kind_is_named_with_the_ways_out(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UnsupportedModelError) as caught:
        read_files(Place(tmp_path))
    assert all(part in str(caught.value) for part in (name, kind, "tokenizer.json", "pod"))


@pytest.mark.parametrize("has_folder", [True, False])
def test_place_without_a_tokenizer_is_said(tmp_path: Path, has_folder: bool) -> None:
    folder = tmp_path if has_folder else tmp_path / "none"
    with pytest.raises(TokenizerError, match="expected") as caught:
        read_files(Place(folder))
    assert str(folder) in str(caught.value)
    assert not isinstance(caught.value, UnsupportedModelError)


def test_stamp_changes_with_every_file_and_link(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    watched = tmp_path / "ref"
    place = Place(folder, watched=(watched,))
    stamps = [stamp_of(place)]
    (folder / "config.json").write_text("{}")
    stamps.append(stamp_of(place))
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "a.jinja").write_text("")
    stamps.append(stamp_of(place))
    watched.write_text("other")
    stamps.append(stamp_of(place))
    # As the hub's cache: the name stays, the link leads to another file of the same size and time.
    link = folder / "chat_template.jinja"
    for blob in ("one", "two"):
        (tmp_path / blob).write_text("same")
        os.utime(tmp_path / blob, ns=(5, 5))
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / blob)
        stamps.append(stamp_of(place))
    assert len(set(stamps)) == len(stamps)
    assert stamp_of(place) == stamps[-1]
