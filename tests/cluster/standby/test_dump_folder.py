"""A folder of dumps: the newest that can be used is loaded, and each newer one."""

from __future__ import annotations

import os
from pathlib import Path

from kvatlas.cluster.standby.dump_folder import DumpFolder
from kvatlas.index.dumps.dump_file import DumpReader, write_dump
from kvatlas.index.dumps.meta import DumpMeta
from kvatlas.index.errors import ClusterError, DumpError, InputError
from kvatlas.index.shards import ShardedIndex
from tests.index.backends.telling import add
from tests.models.world import chain


def dump(path: Path, created_s: float) -> Path:
    index = ShardedIndex(1, table_bytes_max=4 << 20)
    add(index, 0, chain(3, 1))
    meta = DumpMeta(created_s=created_s, cluster="c", keyspaces={}, parts=())
    write_dump(path, meta, index.export())
    index.close()
    return path


class Taker:
    """What was loaded, by when it was made."""

    def __init__(self) -> None:
        self.taken: list[float] = []
        self.refuses: set[float] = set()
        self.too_large: set[float] = set()
        self.is_away = False

    def __call__(self, reader: DumpReader) -> None:
        if self.is_away:
            raise ClusterError("nobody is there")
        if reader.meta.created_s in self.refuses:
            raise DumpError("of another seed")
        if reader.meta.created_s in self.too_large:
            raise InputError("more workers than lanes")
        assert list(reader)
        self.taken.append(reader.meta.created_s)


def test_the_newest_is_loaded_and_each_newer_one(tmp_path: Path) -> None:
    taker = Taker()
    dumps = DumpFolder(tmp_path, taker)
    assert not dumps.step()
    dump(tmp_path / "b", 100.0)
    dump(tmp_path / "a", 300.0)
    dump(tmp_path / "c", 200.0)
    assert dumps.step()
    assert not dumps.step()
    dump(tmp_path / "d", 250.0)
    assert not dumps.step(), "it is older than the one that is loaded"
    dump(tmp_path / "b", 400.0)
    assert dumps.step()
    assert taker.taken == [300.0, 400.0]
    assert dumps.loaded_s == 400.0


def test_one_that_is_torn_foreign_or_refused_is_left_out_and_the_next_one_taken(tmp_path: Path) -> None:
    taker = Taker()
    taker.refuses = {500.0}
    dumps = DumpFolder(tmp_path, taker)
    dump(tmp_path / "good", 100.0)
    dump(tmp_path / "other-seed", 500.0)
    torn = dump(tmp_path / "torn", 600.0)
    torn.write_bytes(torn.read_bytes()[:-10])
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / ".good.tmp").write_bytes(b"")
    os.mkfifo(tmp_path / "fifo")
    assert dumps.step()
    assert taker.taken == [100.0]
    assert dumps.counts["dumps_refused"] == 3
    assert not dumps.step()
    assert dumps.counts["dumps_refused"] == 3, "not looked at again until it changes"
    dump(torn, 700.0)
    assert dumps.step()
    assert taker.taken == [100.0, 700.0]


def test_a_cluster_that_is_away_gets_it_later(tmp_path: Path) -> None:
    taker = Taker()
    taker.is_away = True
    dumps = DumpFolder(tmp_path, taker)
    dump(tmp_path / "a", 100.0)
    assert not dumps.step()
    assert dumps.says == "nobody is there"
    taker.is_away = False
    assert dumps.step()
    dumps.forget()
    assert dumps.step()
    assert taker.taken == [100.0, 100.0]


def test_a_folder_that_is_not_there_may_come(tmp_path: Path) -> None:
    dumps = DumpFolder(tmp_path / "later", Taker())
    assert not dumps.step()
    assert dumps.counts["folders_missing"] == 1
    (tmp_path / "later").mkdir()
    dump(tmp_path / "later" / "a", 1.0)
    assert dumps.step()


def test_one_that_is_too_large_is_left_out_and_an_older_one_taken(tmp_path: Path) -> None:
    taker = Taker()
    taker.too_large = {200.0}
    dump(tmp_path / "small", 100.0)
    dump(tmp_path / "large", 200.0)
    dumps = DumpFolder(tmp_path, taker)
    assert dumps.step()
    assert taker.taken == [100.0]
    assert dumps.counts["dumps_refused"] == 1


def test_one_from_the_future_does_not_keep_out_what_comes_later(tmp_path: Path) -> None:
    """The clock of whoever dumped was a day ahead, and was set right."""
    taker, now_s = Taker(), 1_000.0
    dumps = DumpFolder(tmp_path, taker, wall_s=lambda: now_s)
    dump(tmp_path / "ahead", 90_000.0)
    assert dumps.step()
    now_s = 1_100.0
    dump(tmp_path / "right", 1_060.0)
    assert dumps.step()
    assert taker.taken == [90_000.0, 1_060.0]
    assert not dumps.step()


def test_links_that_lead_nowhere_keep_no_dump_out(tmp_path: Path) -> None:
    dump(tmp_path / "a", 1.0)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "folder").mkdir()
    dumps = DumpFolder(tmp_path, Taker())
    assert dumps.step()
    assert not dumps.counts["folders_missing"]


def test_a_folder_that_vanishes_keeps_what_was_loaded(tmp_path: Path) -> None:
    folder, taker = tmp_path / "dumps", Taker()
    folder.mkdir()
    dumps = DumpFolder(folder, taker)
    dump(folder / "a", 1.0)
    assert dumps.step()
    (folder / "a").unlink()
    folder.rmdir()
    assert not dumps.step()
    assert (dumps.loaded_s, dumps.counts["folders_missing"]) == (1.0, 1)


def test_one_that_is_still_being_written_is_taken_when_it_is_whole(tmp_path: Path) -> None:
    taker = Taker()
    dumps = DumpFolder(tmp_path, taker)
    whole = dump(tmp_path / "elsewhere", 5.0).read_bytes()
    (tmp_path / "elsewhere").unlink()
    for n_bytes in (0, 7, 40, len(whole) - 1):
        (tmp_path / "copied").write_bytes(whole[:n_bytes])
        assert not dumps.step()
    (tmp_path / "copied").write_bytes(whole)
    assert dumps.step()
    assert taker.taken == [5.0]


def test_one_that_has_changed_under_its_old_time_is_looked_at_again(tmp_path: Path) -> None:
    """As where it was only made readable: dumps are their owner's only."""
    taker = Taker()
    dumps = DumpFolder(tmp_path, taker)
    file = dump(tmp_path / "a", 5.0)
    whole, told = file.read_bytes(), file.stat()
    file.write_bytes(whole[:-1] + b"\xff")
    os.utime(file, ns=(told.st_atime_ns, told.st_mtime_ns))
    assert not dumps.step()
    file.write_bytes(whole)
    os.utime(file, ns=(told.st_atime_ns, told.st_mtime_ns))
    assert dumps.step()
