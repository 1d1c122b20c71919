"""Stores and spaces: made once, opened by everybody, foreign ones refused."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
from pathlib import Path

import msgspec
import pytest

from kvatlas.index.errors import ConfigError, StoreError
from kvatlas.offload.layout.space import check_config, open_space, open_store, read_identity, read_space
from kvatlas.offload.layout.written_once import read_small, write_once
from tests.offload.layout.spaces import fields


def test_a_store_is_made_by_who_comes_first_and_found_by_the_next(tmp_path: Path) -> None:
    root = tmp_path / "store"
    first = open_space(root, fields(), store="fast")
    second = open_space(root, fields(), store="fast", part="r3")
    assert first.identity == second.identity and len(first.identity.id) == 32
    assert first.folder == second.folder == root / fields().space_name()
    assert (first.part_folder, second.part_folder) == (first.folder / "all", first.folder / "r3")
    assert first.fingerprint == fields().fingerprint("all") != second.fingerprint
    assert (first.folder / "config.json").read_bytes() == fields().encode()
    assert read_space(first.folder) == fields()
    assert sorted(path.name for path in root.rglob("*")) == sorted(
        ["store.json", first.name, "config.json", "all", "r3"]
    )


def test_a_store_is_not_made_where_its_mount_is_missing(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="missing/store: expected to make this folder, got No such file"):
        open_store(tmp_path / "missing" / "store", "fast")
    assert not list(tmp_path.iterdir())


def test_nothing_is_made_when_opened_for_reading_only(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"store\.json: expected a store, got none"):
        open_space(tmp_path, fields(), store="fast", writable=False)
    open_store(tmp_path, "fast")
    with pytest.raises(StoreError, match=r"config\.json: expected a space, got none"):
        open_space(tmp_path, fields(), store="fast", writable=False)
    assert [path.name for path in tmp_path.iterdir()] == ["store.json"]
    open_space(tmp_path, fields(), store="fast")
    before = sorted(tmp_path.rglob("*"))
    assert open_space(tmp_path, fields(), store="fast", part="r0", writable=False).identity.name == "fast"
    assert sorted(tmp_path.rglob("*")) == before


def test_another_store_is_refused_by_its_name(tmp_path: Path) -> None:
    open_store(tmp_path, "fast")
    with pytest.raises(StoreError, match=r"store\.json: expected store 'slow', got 'fast'"):
        open_store(tmp_path, "slow")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "something else"),
        (b"{", "something else"),
        (b"[1]", "version 1, got None"),
        (b'{"version":2}', "version 1, got 2"),
        (b'{"version":1,"format":"other","name":"fast","id":"0","created_by":"x"}', "something else"),
        (b'{"version":1,"format":"kvatlas-store","name":"fast"}', "something else"),
        (b'{"version":1,"format":"kvatlas-store","name":"fast","id":"0","created_by":"x","more":1}', "more"),
        (b"\xff\xfe", "something else"),
        (b"[" * 60_000, "something else"),
        (b" " * 70_000, "at most 65536 bytes"),
    ],
)
def test_a_foreign_or_torn_store_file_is_refused_and_left_alone(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / "store.json").write_bytes(content)
    with pytest.raises(StoreError, match=reason):
        open_store(tmp_path, "fast")
    assert (tmp_path / "store.json").read_bytes() == content


@pytest.mark.parametrize("name", ["", "x" * 257, "a\nb", "a\0b"])
def test_a_store_needs_a_name_that_can_be_shown(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="store: expected a name"):
        open_store(tmp_path, name)


def test_a_folder_whose_config_says_something_else_is_refused_with_the_difference(tmp_path: Path) -> None:
    space = open_space(tmp_path, fields(), store="fast")
    config = space.folder / "config.json"
    other = json.loads(config.read_bytes()) | {"tp_size": 4}
    for content, reason in [
        (json.dumps(other).encode(), "expected tp_size 2, got 4"),
        (fields().encode() + b"\n", "expected the .* bytes of these fields, got .* others"),
        (b"", "expected .*, got 0 others"),
        (b"[]", "expected .*, got 2 others"),
        (b"[" * 100_000, "expected .*, got 100000 others"),
    ]:
        config.write_bytes(content)
        with pytest.raises(StoreError, match=rf"config\.json: {reason}"):
            open_space(tmp_path, fields(), store="fast")
        with pytest.raises(StoreError):
            read_space(space.folder)


def test_a_space_that_was_renamed_is_not_read_as_another(tmp_path: Path) -> None:
    space = open_space(tmp_path, fields(), store="fast")
    with pytest.raises(StoreError, match=f"expected the fields of other, got those of {space.name}"):
        read_space(space.folder.rename(tmp_path / "other"))


@pytest.mark.parametrize("kind", ["fifo", "folder", "link"])
def test_what_is_no_plain_file_is_neither_waited_for_nor_followed(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "store.json"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        (tmp_path / "elsewhere").write_bytes(b"{}")
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=r"store\.json: expected"):
        open_store(tmp_path, "fast")


def _open(root: Path, start: object, answers: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    answers.put(open_space(root, fields(), store="fast").identity.id)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_processes_that_open_a_new_store_at_once_agree_on_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    for round_ in range(2):
        start, answers = context.Barrier(4), context.Queue()
        root = tmp_path / str(round_)
        processes = [context.Process(target=_open, args=(root, start, answers)) for _ in range(4)]
        for process in processes:
            process.start()
        ids = {answers.get(timeout=60) for _ in processes}
        for process in processes:
            process.join()
        assert ids == {open_store(root, "fast", writable=False).id}
        assert not list(root.rglob("*.tmp"))


def test_the_first_of_two_writers_wins_and_both_are_told(tmp_path: Path) -> None:
    assert write_once(tmp_path / "a", b"one") == write_once(tmp_path / "a", b"two") == b"one"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_without_links_a_file_is_still_made_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems have none."""

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    assert write_once(tmp_path / "a", b"one") == b"one"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_write_that_fails_leaves_nothing_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"store\.json: expected to write it, got No space left on device"):
        open_store(tmp_path, "fast")
    assert not list(tmp_path.iterdir())


def test_small_files_are_read_up_to_a_bound(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_small(tmp_path / "a", 5) == b"12345"
    assert read_small(tmp_path / "b", 5) is None
    with pytest.raises(StoreError, match="expected at most 4 bytes, got more"):
        read_small(tmp_path / "a", 4)


def test_others_may_read_what_was_made(tmp_path: Path) -> None:
    open_store(tmp_path, "fast")
    assert stat.S_IMODE((tmp_path / "store.json").stat().st_mode) & 0o044 == 0o044


def test_an_identity_and_a_config_are_checked_wherever_they_lie() -> None:
    """As object stores do."""
    identity = b'{"version":1,"format":"kvatlas-store","name":"fast","id":"0","created_by":"x"}'
    assert read_identity("s3://bucket/store.json", identity, "fast").name == "fast"
    with pytest.raises(StoreError, match=r"s3://bucket/store.json: expected store 'slow'"):
        read_identity("s3://bucket/store.json", identity, "slow")
    check_config("s3://bucket/config.json", fields().encode(), fields())
    other = msgspec.structs.replace(fields(), dtype="fp8")
    with pytest.raises(StoreError, match=r"s3://bucket/config.json: expected dtype 'bfloat16', got 'fp8'"):
        check_config("s3://bucket/config.json", other.encode(), fields())
