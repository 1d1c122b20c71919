"""Numbers that are never issued twice, and values that are replaced whole."""

from __future__ import annotations

from pathlib import Path

from kvatlas.actors.directory.keeping import Counters, FileKeeper


def test_counters_go_on_above_all_that_was_issued(tmp_path: Path) -> None:
    issued: list[int] = []
    for life in range(4):
        counters = Counters(FileKeeper(tmp_path))
        issued += [counters.issue("view", 4096) for _ in range(5_000 if life == 1 else 3)]
        assert counters.issue("other") == 1 + life
    assert issued == sorted(set(issued)) and issued[0] == 1


def test_a_folder_keeps_values_and_forgets_them(tmp_path: Path) -> None:
    keeper = FileKeeper(tmp_path / "kept")
    keeper.put("a", b"1")
    keeper.put("a", b"22")
    assert FileKeeper(tmp_path / "kept").get("a") == b"22" and keeper.get("b") is None
    assert (tmp_path / "kept" / "a").stat().st_mode & 0o077 == 0
    keeper.clear()
    assert keeper.get("a") is None
