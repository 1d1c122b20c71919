"""A folder of dumps: the newest that can be used is loaded, and each newer one."""

from __future__ import annotations

import os
from pathlib import Path

from kvatlas.cluster.standby.dump_folder import DumpFolder
from kvatlas.index.dumps.dump_file import DumpReader, write_dump
from kvatlas.index.dumps.meta import DumpMeta
from kvatlas.index.errors import ClusterError, DumpError
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
        self.is_away = False

    def __call__(self, reader: DumpReader) -> None:
        if self.is_away:
            raise ClusterError("nobody is there")
        if reader.meta.created_s in self.refuses:
            raise DumpError("of another seed")
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
