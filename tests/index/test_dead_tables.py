"""Files that dead writers left: removed, and nothing else."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import struct
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from kvatlas.index._native import Table, TableReader, remove_dead_tables
from kvatlas.index.errors import InputError, StaleTableError, TableFileError
from tests.models.table import ADD, Record

pytestmark = pytest.mark.native

KEY = np.array([7], np.uint64)
CONTROL = struct.Struct("<8sIIQQQQQ")
A_MINUTE_MS = 60_000
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    shared = Path("/dev/shm")
    folder = shared / f"kvatlas-test-dead-{os.getpid()}" if shared.is_dir() else tmp_path
    folder.mkdir(exist_ok=True)
    yield folder
    shutil.rmtree(folder)


def write_and_die(path: str) -> None:
    """In another process: leaves its files behind, as a killed one does."""
    table = Table(path=path)
    table.apply(Record(ADD, 1, 1, (7,)).packed())
    os._exit(9)


def leave_dead(*paths: Path) -> None:
    for path in paths:
        process = SPAWN.Process(target=write_and_die, args=(str(path),))
        process.start()
        process.join(timeout=60)
        assert process.exitcode == 9


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


@pytest.mark.slow
def test_what_the_dead_left_goes_and_what_lives_stays(folder: Path) -> None:
    live = Table(path=str(folder / "fleet-live"))
    live.apply(Record(ADD, 1, 1, (7,)).packed())
    leave_dead(folder / "fleet-one", folder / "fleet-two", folder / "other-one")
    assert remove_dead_tables(str(folder), "fleet-") == 2
    assert names(folder) == {"fleet-live", "fleet-live.1", "other-one", "other-one.1"}
    assert TableReader(str(folder / "fleet-live"), age_ms_max=A_MINUTE_MS).lookup(KEY) == [[(1, 1)]]
    assert remove_dead_tables(str(folder), "fleet-") == 0
    live.close()
    assert remove_dead_tables(str(folder), "other-one") == 1
    assert names(folder) == set()


def write_until_told(path: str, pipe: Connection) -> None:
    """In another process: a writer that lives."""
    table = Table(path=path)
    table.apply(Record(ADD, 1, 1, (7,)).packed())
    pipe.send("ready")
    pipe.recv()
    table.heartbeat()
    table.apply(Record(ADD, 2, 1, (7,)).packed())
    pipe.send("done")
    pipe.recv()
    table.close()


@pytest.mark.slow
def test_a_table_that_another_process_writes_is_left_alone(folder: Path) -> None:
    ours, theirs = SPAWN.Pipe()
    path = str(folder / "table")
    process = SPAWN.Process(target=write_until_told, args=(path, theirs))
    process.start()
    assert ours.recv() == "ready"
    assert remove_dead_tables(str(folder), "table") == 0
    ours.send("go on")
    assert ours.recv() == "done"
    assert TableReader(path, age_ms_max=A_MINUTE_MS).lookup(KEY) == [[(1, 1), (2, 1)]]
    ours.send("end")
    process.join(timeout=60)
    assert process.exitcode == 0
    assert names(folder) == set()


@pytest.mark.slow
def test_a_reader_that_is_still_attached_finds_the_table_closed(folder: Path) -> None:
    leave_dead(folder / "table")
    reader = TableReader(str(folder / "table"), age_ms_max=A_MINUTE_MS)
    assert reader.lookup(KEY) == [[(1, 1)]]
    assert remove_dead_tables(str(folder), "table") == 1
    with pytest.raises(StaleTableError, match="closed"):
        reader.lookup(KEY)
    assert not reader.whole


@pytest.mark.slow
def test_generations_without_a_control_file_and_files_that_were_only_begun_go_too(folder: Path) -> None:
    leave_dead(folder / "orphan", folder / "torn")
    (folder / "orphan").unlink()
    (folder / "torn").write_bytes(b"")
    (folder / "torn.2").write_bytes(bytes(4096))
    (folder / "blank").write_bytes(bytes(4096))
    assert remove_dead_tables(str(folder), "orphan") == 1
    assert names(folder) == {"torn", "torn.1", "torn.2", "blank"}
    assert remove_dead_tables(str(folder), "torn") == 1
    assert remove_dead_tables(str(folder), "blank") == 1
    assert names(folder) == set()


def test_files_of_another_release_go_and_foreign_ones_stay(folder: Path) -> None:
    old = CONTROL.pack(b"kvatlas\0", 1, 0, 1, 1, 0, 0, 0).ljust(4096, b"\0")
    (folder / "table-old").write_bytes(old)
    (folder / "table-notes").write_text("not a table")
    (folder / "table-log.1").write_bytes(b"x" * 9_000)
    (folder / "table-page").write_bytes(b"y" * 4_096)
    (folder / "table-long").write_bytes(old + b"\0")
    (folder / "table-folder").mkdir()
    (folder / "table-folder.1").mkdir()
    (folder / "table-link").symlink_to(folder / "table-notes")
    foreign = names(folder) - {"table-old"}
    remove_dead_tables(str(folder), "table-")
    assert names(folder) == foreign


def test_a_prefix_that_could_mean_anything_is_refused(folder: Path) -> None:
    for prefix in ("", "a/b", "/"):
        with pytest.raises(InputError, match="prefix: expected the beginning of a file's name"):
            remove_dead_tables(str(folder), prefix)
    with pytest.raises(TableFileError, match="cannot look for tables"):
        remove_dead_tables(str(folder / "nowhere"), "table")


def test_a_name_that_could_be_a_generations_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="does not end in a dot and digits"):
        Table(path=str(folder / "table.12"))
    Table(path=str(folder / "table.v12")).close()


@pytest.mark.slow
def test_tables_are_made_while_others_look_for_dead_ones_and_none_is_harmed(folder: Path) -> None:
    """A file between its making and its locking looks dead for a moment."""
    done, harmed, removed = threading.Event(), [], []

    def sweep() -> None:
        while not done.is_set():
            removed.append(remove_dead_tables(str(folder), "table"))

    sweepers = [threading.Thread(target=sweep) for _ in range(2)]
    for sweeper in sweepers:
        sweeper.start()
    try:
        for turn in range(300):
            path = str(folder / f"table-{turn % 3}")
            table = Table(path=path)
            table.apply(Record(ADD, turn, 1, (7,)).packed())
            if TableReader(path, age_ms_max=A_MINUTE_MS).lookup(KEY) != [[(turn, 1)]]:
                harmed.append(turn)
            table.close()
    finally:
        done.set()
        for sweeper in sweepers:
            sweeper.join()
    assert harmed == []
    assert removed
    assert names(folder) == set()
