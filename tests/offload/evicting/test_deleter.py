"""Deleting: what is used or pinned at any moment before its end comes back, nothing goes untold."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from kvatlas.index.errors import StoreError
from kvatlas.offload._native import chunk_name
from kvatlas.offload.capacity.control import ControlFolder
from kvatlas.offload.capacity.pins import write_pin
from kvatlas.offload.evicting.candidates import Candidate
from kvatlas.offload.evicting.crawler import Part
from kvatlas.offload.evicting.deleter import Deleter
from kvatlas.offload.layout.space import Space
from tests.offload.capacity.stores_at_hand import files_of, key_of, make_store, put

S = 1_000_000_000


class Rig:
    """A store, a deleter, and who is told."""

    def __init__(self, root: Path) -> None:
        self.space: Space = make_store(root)
        self.control = ControlFolder(root)
        self.control.prepare()
        self.told: list[bytes] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self.deleter = Deleter(self.control, self._removed, threads=2)

    def _removed(self, space: str, keys: Sequence[bytes]) -> None:
        assert space == self.space.name
        self.told.extend(keys)
        self.meanwhile()

    def old(self, number: int) -> Candidate:
        path = put(self.space.part_folder, key_of(number), 4096, age_s=1000.0)
        part = Part(self.space.name, "all", str(self.space.part_folder))
        return Candidate(part, key_of(number), 4096, path.stat().st_mtime_ns)

    def path(self, one: Candidate) -> Path:
        return self.space.part_folder / chunk_name(one.key)

    @property
    def trash(self) -> list[Path]:
        return [path for path in self.control.trash.rglob("*") if path.is_file()]


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "store")


def test_a_batch_goes_and_is_told(rig: Rig) -> None:
    batch = [rig.old(number) for number in range(5)]
    assert rig.deleter.delete(batch) == 5 * 4096
    assert sorted(rig.told) == sorted(one.key for one in batch)
    assert files_of(rig.control.root) == [] and rig.trash == []
    assert rig.deleter.counts["deleted"] == 5


def test_what_was_used_since_the_crawl_stays(rig: Rig) -> None:
    one = rig.old(1)
    os.utime(rig.path(one))
    assert rig.deleter.delete([one]) == 0
    assert rig.path(one).exists() and rig.told == []
    assert rig.deleter.counts["touched"] == 1


def test_what_is_used_while_it_is_put_aside_comes_back(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    one, rename = rig.old(1), os.rename

    def touched_then_renamed(source: str, target: str) -> None:
        os.utime(source)
        rename(source, target)

    monkeypatch.setattr(os, "rename", touched_then_renamed)
    assert rig.deleter.delete([one]) == 0
    assert rig.path(one).exists() and rig.told == [] and rig.trash == []
    assert rig.deleter.counts["put_back"] == 1


def test_without_links_a_file_comes_back_by_a_rename(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    one, rename = rig.old(1), os.rename
    renames: list[str] = []

    def touched_then_renamed(source: str, target: str) -> None:
        if not renames:
            os.utime(source)
        renames.append(target)
        rename(source, target)

    def no_links(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no links here")

    monkeypatch.setattr(os, "rename", touched_then_renamed)
    monkeypatch.setattr(os, "link", no_links)
    assert rig.deleter.delete([one]) == 0
    assert rig.path(one).exists() and rig.trash == [] and len(renames) == 2


def test_what_was_written_anew_meanwhile_is_not_replaced(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    one, rename = rig.old(1), os.rename

    def touched_renamed_and_written_anew(source: str, target: str) -> None:
        os.utime(source)
        rename(source, target)
        Path(source).write_bytes(b"new")

    monkeypatch.setattr(os, "rename", touched_renamed_and_written_anew)
    assert rig.deleter.delete([one]) == 0
    assert rig.path(one).read_bytes() == b"new" and rig.trash == []


def test_what_is_pinned_stays_also_when_the_pin_comes_late(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, rename = rig.old(1), rig.old(2), os.rename
    write_pin(rig.control, rig.space.name, [first.key])

    def pinned_then_renamed(source: str, target: str) -> None:
        monkeypatch.setattr(os, "rename", rename)
        write_pin(rig.control, rig.space.name, [second.key])
        rename(source, target)

    monkeypatch.setattr(os, "rename", pinned_then_renamed)
    assert rig.deleter.delete([first, second]) == 0
    assert rig.path(first).exists() and rig.path(second).exists() and rig.told == []
    assert (rig.deleter.counts["pinned"], rig.deleter.counts["put_back"]) == (2, 1)


def test_a_pin_that_cannot_be_read_stops_everything_and_loses_nothing(rig: Rig) -> None:
    one = rig.old(1)
    (rig.control.pins / "broken.pin").write_bytes(b"{")
    with pytest.raises(StoreError):
        rig.deleter.delete([one])
    assert rig.path(one).exists() and rig.told == []


def test_nobody_finds_a_file_when_its_removal_is_told(rig: Rig) -> None:
    one, seen = rig.old(1), []
    rig.meanwhile = lambda: seen.append((rig.path(one).exists(), len(rig.trash)))
    rig.deleter.delete([one])
    assert seen == [(False, 1)]


def test_two_deleters_of_the_same_files_do_each_once(rig: Rig) -> None:
    batch = [rig.old(number) for number in range(8)]
    other = Rig(rig.control.root)
    other.meanwhile = rig.meanwhile = lambda: None
    assert rig.deleter.delete(batch) + other.deleter.delete(batch) == 8 * 4096
    assert other.deleter.counts["gone"] == 8 and other.told == []


def test_what_a_dead_evictor_has_left_is_told_and_goes_or_comes_back(rig: Rig) -> None:
    old, used = rig.old(1), rig.old(2)
    os.utime(rig.path(used))
    trash = rig.control.trash / rig.space.name / "all"
    trash.mkdir(parents=True)
    for one in (old, used):
        rig.path(one).rename(trash / f"{rig.path(one).name}.deadbeef")
    foreign = trash / "somebody's notes"
    foreign.write_text("keep")
    now_ns = foreign.stat().st_mtime_ns
    assert rig.deleter.empty_trash(now_ns, 60 * S, 10 * S) == 0  # another may be at work on them
    assert rig.deleter.empty_trash(now_ns + 5 * S, 0, 100 * S) == 4096
    assert rig.told == [old.key]
    assert rig.path(used).exists() and not rig.path(old).exists()
    assert rig.trash == [foreign]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_folder_that_may_not_be_written_raises_and_leaves_all(rig: Rig) -> None:
    one = rig.old(1)
    folder = rig.path(one).parent
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(PermissionError):
            rig.deleter.delete([one])
        assert rig.path(one).exists()
    finally:
        folder.chmod(stat.S_IRWXU)
