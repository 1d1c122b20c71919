"""Where models lie: plain trees and caches of the hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvatlas.tokenize.loading import places
from kvatlas.tokenize.loading.places import (
    cache_folder,
    models_in_cache,
    models_in_folder,
    place_in_cache,
    place_in_folder,
)
from tests.tokenize.loading.model_files import write_cached


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    return path


def test_path_below_a_folder_is_the_name(tmp_path: Path) -> None:
    touch(tmp_path / "qwen" / "tokenizer.json")
    touch(tmp_path / "org" / "deep" / "er" / "tokenizer.json")
    touch(tmp_path / "org" / "notes.txt")
    assert models_in_folder(tmp_path) == ["org/deep/er", "qwen"]
    for name in models_in_folder(tmp_path):
        place = place_in_folder(tmp_path, name)
        assert place is not None and place.folder == tmp_path / name


def test_folder_that_is_a_model_itself_has_its_own_name(tmp_path: Path) -> None:
    touch(tmp_path / "qwen" / "tokenizer.json")
    assert models_in_folder(tmp_path / "qwen") == ["qwen"]
    place = place_in_folder(tmp_path / "qwen", "qwen")
    assert place is not None and place.folder == tmp_path / "qwen"


@pytest.mark.parametrize("below", [".", "hub"])
def test_cache_in_a_folder_gives_the_names_of_the_hub(tmp_path: Path, below: str) -> None:
    snapshot = write_cached(tmp_path / below, "org/name")
    write_cached(tmp_path / below, "single")
    assert models_in_folder(tmp_path) == ["org/name", "single"]
    place = place_in_folder(tmp_path, "org/name")
    assert place is not None and place.folder == snapshot


def test_cache_leads_to_the_commit_of_its_ref(tmp_path: Path) -> None:
    old = write_cached(tmp_path, "org/name", "aaaa")
    new = write_cached(tmp_path, "org/name", "bbbb")
    refs = tmp_path / "models--org--name" / "refs"
    (refs / "v1").write_text("aaaa\n")
    found = [place_in_cache(tmp_path, "org/name", revision) for revision in (None, "v1", "aaaa")]
    assert [place and place.folder for place in found] == [new, old, old]
    assert found[0] is not None and found[0].watched == (refs / "main",)


def test_cache_without_refs_is_clear_only_where_there_is_one_snapshot(tmp_path: Path) -> None:
    one = write_cached(tmp_path, "org/name", "aaaa")
    (tmp_path / "models--org--name" / "refs" / "main").unlink()
    place = place_in_cache(tmp_path, "org/name")
    assert place is not None and place.folder == one
    (one.parent / "bbbb").mkdir()
    assert place_in_cache(tmp_path, "org/name") is None


@pytest.mark.parametrize("ref", ["../../../secret", "", "/etc", "\xff", "a" * 1000])
def test_ref_that_leads_elsewhere_is_not_followed(tmp_path: Path, ref: str) -> None:
    write_cached(tmp_path, "org/name")
    touch(tmp_path / "secret" / "tokenizer.json")
    (tmp_path / "models--org--name" / "refs" / "main").write_text(ref, encoding="latin-1")
    place = place_in_cache(tmp_path, "org/name")
    assert place is None or place.folder == tmp_path / "models--org--name" / "snapshots" / "c0ffee"


@pytest.mark.parametrize("name", ["../out", "/etc", "a/../../out", "x" * 300, "a\\..\\..\\out", "none"])
def test_name_never_leaves_its_folder(tmp_path: Path, name: str) -> None:
    touch(tmp_path / "out" / "tokenizer.json")
    folder = tmp_path / "in"
    folder.mkdir()
    assert place_in_folder(folder, name) is None
    assert place_in_cache(folder, name) is None


def test_search_ends_in_a_folder_that_contains_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "again").symlink_to(tmp_path)
    (tmp_path / "more").symlink_to(tmp_path)
    touch(tmp_path / "qwen" / "tokenizer.json")
    monkeypatch.setattr(places, "SCAN_FOLDERS_MAX", 50)
    assert "qwen" in models_in_folder(tmp_path)


def test_models_of_a_cache_are_those_with_a_tokenizer(tmp_path: Path) -> None:
    write_cached(tmp_path, "org/name")
    (write_cached(tmp_path, "org/weights") / "tokenizer.json").unlink()
    assert models_in_cache(tmp_path) == ["org/name"]
    assert models_in_cache(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HF_HUB_CACHE": "/c", "HF_HOME": "/h"}, "/c"),
        ({"HF_HOME": "/h"}, "/h/hub"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({"HOME": "/me"}, "/me/.cache/huggingface/hub"),
    ],
)
def test_cache_is_where_the_hubs_library_has_it(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder(None) == Path(expected)
    assert cache_folder("/set") == Path("/set")
