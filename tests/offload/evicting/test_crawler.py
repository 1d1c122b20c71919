"""Crawling: all that is ours, nothing that is not, no link followed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvatlas.offload._native import chunk_name
from kvatlas.offload.evicting import crawler
from kvatlas.offload.evicting.crawler import crawl, parts_of
from tests.offload.capacity.stores_at_hand import key_of, make_store, put


@pytest.mark.parametrize("threads", [1, 3])
def test_every_file_of_every_part_is_listed_once(tmp_path: Path, threads: int) -> None:
    places = [make_store(tmp_path / "s", model, part) for model in ("a", "b/c") for part in ("all", "r1")]
    expected = set()
    for at, space in enumerate(places):
        for number in range(50):
            put(space.part_folder, key_of(number), 100 + number)
            expected.add((places[at].name, places[at].part, key_of(number), 100 + number))
    found = [
        (one.part.space, one.part.part, key, size)
        for one in crawl(tmp_path / "s", threads)
        for key, size in zip(one.keys, one.sizes, strict=True)
    ]
    assert len(found) == len(expected) and set(found) == expected


def test_large_folders_come_in_bounded_listings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crawler, "BATCH_FILES", 10)
    folder = make_store(tmp_path / "s").part_folder
    made = [put(folder, bytes(31) + number.to_bytes(1, "big") + bytes(4)) for number in range(35)]
    assert len({path.parent for path in made}) == 1
    listings = list(crawl(tmp_path / "s"))
    assert [len(one.keys) for one in listings] == [10, 10, 10, 5]


def test_litter_is_told_apart_from_what_is_foreign(tmp_path: Path) -> None:
    space = make_store(tmp_path / "s")
    path = put(space.part_folder, key_of(1))
    (path.parent / f".{path.name}.00.1.tmp").write_bytes(b"123")
    path.with_name(path.name + ".bad").write_bytes(b"12")
    (path.parent / "README").write_text("who has put this here?")
    (path.parent / "sub").mkdir()
    path.with_name("0" * 64 + "_g0.kv").write_bytes(b"in the wrong folder")
    (one,) = crawl(tmp_path / "s")
    assert one.keys == [key_of(1)]
    assert sorted((litter.n_bytes, litter.is_bad) for litter in one.litter) == [(2, True), (3, False)]
    assert one.foreign == 3


def test_links_are_not_followed(tmp_path: Path) -> None:
    space = make_store(tmp_path / "s")
    elsewhere = make_store(tmp_path / "elsewhere")
    put(elsewhere.part_folder, key_of(1))
    os.symlink(elsewhere.folder, tmp_path / "s" / "linked-space")
    os.symlink(elsewhere.part_folder, space.folder / "r7")
    os.symlink(elsewhere.part_folder / chunk_name(key_of(1))[:3], space.part_folder / "abc")
    assert [one for one in crawl(tmp_path / "s") if one.keys] == []


def test_the_control_folder_and_hidden_ones_are_no_spaces(tmp_path: Path) -> None:
    space = make_store(tmp_path / "s")
    for name in ("control", ".snapshot"):
        put_here = tmp_path / "s" / name / "all" / "000"
        put_here.mkdir(parents=True)
    (space.folder / "notes").mkdir()
    assert [(one.space, one.part) for one in parts_of(tmp_path / "s")] == [(space.name, "all")]


def test_a_part_that_vanishes_is_left_out(tmp_path: Path) -> None:
    space = make_store(tmp_path / "s")
    parts = list(parts_of(tmp_path / "s"))
    space.part_folder.rmdir()
    assert list(crawl(tmp_path / "s", parts=parts)) == []
