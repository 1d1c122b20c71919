"""What a reader learns of a table's writer: whole, paused, gone, of another release."""

from __future__ import annotations

import multiprocessing
import os
import signal
import struct
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from kvatlas.index._native import Excerpt, Index, Roster, Table, TableReader, excerpt
from kvatlas.index.errors import StaleTableError, TableFileError
from tests.models.table import ADD, Record, delta
from tests.models.world import GPU

pytestmark = pytest.mark.native

KEY = np.array([7], np.uint64)
SPAWN = multiprocessing.get_context("spawn")
A_MINUTE_MS = 60_000
VERSION_AT = 8
FLIPS_AT = 96


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "table")


def beat_until_told(path: str, pipe: Connection) -> None:
    """In another process: a writer that beats all the time."""
    table = Table(path=path)
    table.apply(Record(ADD, 1, 1, (7,)).packed())
    table.set_whole(True)
    pipe.send("ready")
    while not pipe.poll(0.005):
        table.heartbeat()
    table.close()


@pytest.fixture
def writer(path: str) -> Iterator[int]:
    """The process id of a writer at `path`."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=beat_until_told, args=(path, theirs))
    process.start()
    assert ours.recv() == "ready"
    assert process.pid is not None
    yield process.pid
    if process.is_alive():
        os.kill(process.pid, signal.SIGCONT)
        ours.send("end")
    process.join(timeout=60)
    assert not process.is_alive()


def look_forever(look: Callable[[], object]) -> NoReturn:
    while True:
        look()


def look_until(look: Callable[[], bool]) -> None:
    while not look():
        pass


def test_whole_is_what_the_writer_says_and_starts_as_no(path: str) -> None:
    table, private = Table(path=path), Table()
    reader = TableReader(path, age_ms_max=A_MINUTE_MS)
    assert (table.whole, private.whole, reader.whole) == (False, False, False)
    for is_whole in (True, False, True):
        table.set_whole(is_whole)
        private.set_whole(is_whole)
        assert (table.whole, private.whole, reader.whole) == (is_whole,) * 3
    assert (table.path, private.path) == (path, "")
    table.close()
    assert not reader.whole
    with pytest.raises(TableFileError, match="closed"):
        table.set_whole(True)
    later = Table(path=path)
    assert not TableReader(path, age_ms_max=A_MINUTE_MS).whole, "what a dead writer said is forgotten"
    later.close()
    private.close()


@pytest.mark.slow
def test_a_reader_of_a_paused_writer_is_told_and_goes_on_when_it_wakes(path: str, writer: int) -> None:
    reader = TableReader(path, age_ms_max=2_000)
    assert reader.lookup(KEY) == [[(1, 1)]]
    assert reader.whole
    os.kill(writer, signal.SIGSTOP)
    with pytest.raises(StaleTableError, match=r"last heartbeat is \d+ ms old, at most 2000"):
        look_forever(lambda: reader.lookup(KEY))
    assert not reader.whole
    assert reader.age_ms > 2_000
    with pytest.raises(StaleTableError, match="heartbeat"):
        TableReader(path, age_ms_max=2_000)
    os.kill(writer, signal.SIGCONT)
    look_until(lambda: reader.whole)
    assert TableReader(path, age_ms_max=A_MINUTE_MS).lookup(KEY) == [[(1, 1)]]


@pytest.mark.slow
def test_a_reader_outlives_a_killed_writer_and_is_told(path: str, writer: int) -> None:
    reader = TableReader(path, age_ms_max=300)
    roster = Roster()
    roster.set(0, [1], [])
    index = Index([reader], roster)
    os.kill(writer, signal.SIGKILL)
    with pytest.raises(StaleTableError, match="heartbeat"):
        look_forever(lambda: index.match(KEY))
    assert not reader.whole


@pytest.mark.slow
def test_a_writer_that_stops_in_the_middle_of_a_replacement_is_not_waited_for_for_ever(path: str) -> None:
    """As a paused one: the generation's `flips` stays odd."""
    table = Table(path=path)
    table.apply(Record(ADD, 1, 1, (7,)).packed())
    reader, roster = TableReader(path, age_ms_max=A_MINUTE_MS), Roster()
    roster.set(0, [1], [])
    with open(path + ".1", "r+b") as file:
        file.seek(FLIPS_AT)
        assert file.read(8) == struct.pack("<Q", 0)
        file.seek(FLIPS_AT)
        file.write(struct.pack("<Q", 1))
    assert reader.lookup(KEY) == [[(1, 1)]]
    assert Index([reader], roster).match(KEY)[1].tolist() == [1]
    assert Excerpt([KEY], [excerpt(reader, KEY)]).lookup(KEY) == [[(1, 1)]]
    table.close()


@pytest.mark.parametrize("suffix", ["", ".1"])
@pytest.mark.parametrize("version", [0, 2, 4])
def test_files_of_another_release_are_refused_with_both_versions(
    path: str, suffix: str, version: int
) -> None:
    table = Table(path=path)
    with open(path + suffix, "r+b") as file:
        file.seek(VERSION_AT)
        file.write(struct.pack("<I", version))
    with pytest.raises(
        TableFileError, match=f"expected table format version 3, got {version}: another release"
    ):
        TableReader(path, age_ms_max=A_MINUTE_MS)
    table.close()


def test_a_reader_keeps_a_bounded_sample_of_the_segments_that_matches_used(path: str) -> None:
    table = Table(path=path)
    keys = np.arange(2, 3_000, dtype=np.uint64)
    table.apply(delta(Record(ADD, 1, GPU, (int(key),), int(key)) for key in keys))
    reader, roster = TableReader(path, age_ms_max=A_MINUTE_MS), Roster()
    roster.set(0, [1], [])
    index = Index([reader], roster)
    assert reader.take_touched().tolist() == []
    for _ in range(400):  # one use in four is told, by chance
        index.match(keys[:1])
    told = reader.take_touched().tolist()
    assert 40 < len(told) < 200
    assert set(told) == {2}
    for at in range(len(keys) * 16):
        index.match(keys[at // 16 : at // 16 + 1])
    sample = reader.take_touched()
    assert len(sample) == 1024
    assert set(sample.tolist()) <= set(keys.tolist())
    assert min(sample.tolist()) < 700 and max(sample.tolist()) > 2_300, "early and late ones alike"
    assert reader.take_touched().dtype == np.uint64
    table.touch(sample)
    table.close()
