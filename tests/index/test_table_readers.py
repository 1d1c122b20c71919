"""Readers of a table's shared-memory files: what they see, from where, and what they refuse."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import pytest

from kvatlas.index._native import Table, TableReader
from kvatlas.index.errors import InputError, StaleTableError, TableFileError
from tests.models.table import ADD, CLEAR_LANE, REMOVE, NaiveTable, Record, delta

pytestmark = pytest.mark.native

U64 = npt.NDArray[np.uint64]
MIXER = np.uint64(0x9E3779B97F4A7C15)
A_MINUTE_MS = 60_000


def mixed(n: int) -> U64:
    keys: U64 = np.arange(1, n + 1, dtype=np.uint64) * MIXER
    return keys


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    """A prefix for the files of one table, in shared memory where there is some."""
    shared = Path("/dev/shm")
    folder = shared / f"kvatlas-test-{os.getpid()}" if shared.is_dir() else tmp_path
    folder.mkdir(exist_ok=True)
    yield str(folder / "table")
    shutil.rmtree(folder)


def test_a_reader_sees_each_delta_as_soon_as_it_is_applied(path: str) -> None:
    table, reader, model = Table(path=path), TableReader(path), NaiveTable()
    keys = mixed(50)
    asked = [int(key) for key in keys]
    random = np.random.default_rng(1)
    for _ in range(300):
        run = random.choice(keys, 10, replace=False)
        op, lane = int(random.choice([ADD, ADD, REMOVE])), int(random.integers(0, 70))
        record = Record(op, lane, int(random.choice([1, 2])), tuple(map(int, run)))
        if random.random() < 0.02:
            record = Record(CLEAR_LANE, lane)
        table.apply(record.packed())
        model.apply(record)
        assert [dict(held) for held in reader.lookup(keys)] == model.lookup(asked)
    table.close()


@pytest.mark.slow
def test_a_reader_follows_the_table_into_larger_files(path: str) -> None:
    table, reader = Table(path=path), TableReader(path)
    keys = mixed(200_000)
    for start in range(0, len(keys), 4_000):
        run = tuple(map(int, keys[start : start + 4_000]))
        table.apply(Record(ADD, start // 4_000, 1, run, segment_key=run[0]).packed())
        assert reader.lookup(keys[start : start + 10]) == [[(start // 4_000, 1)]] * 10
        assert reader.lookup(keys[:10]) == [[(0, 1)]] * 10
    assert table.statistics()["rebuilds"] > 3
    assert reader.lookup(keys) == table.lookup(keys)
    table.close()


def test_superseded_files_are_removed(path: str) -> None:
    table = Table(path=path)
    keys = mixed(100_000)
    for start in range(0, len(keys), 1_000):
        table.apply(Record(ADD, 1, 1, tuple(map(int, keys[start : start + 1_000]))).packed())
    assert table.statistics()["rebuilds"] > 3
    assert len(list(Path(path).parent.iterdir())) <= 3
    table.close()
    assert list(Path(path).parent.iterdir()) == []


LANES = 30_000
PHASES = 40


def lane_of(block: int, phase: int) -> int:
    """The one lane that holds the block in a phase; hardly two blocks ever share a set."""
    return (block * 97 + phase * 7_919) % LANES


def read_until_told(path: str, n: int, pipe: Connection) -> None:
    """In another process: looks at random blocks and keeps what could never have been true."""
    keys, random = mixed(n), np.random.default_rng(os.getpid())
    reader = TableReader(path, age_ms_max=A_MINUTE_MS)
    phases = [{lane_of(block, phase): phase for phase in range(PHASES)} for block in range(n)]
    newest, wrong, lookups = [0] * n, [], 0
    pipe.send("ready")
    while not pipe.poll():
        chosen = random.integers(0, n, 64)
        for block, held in zip(chosen.tolist(), reader.lookup(keys[chosen]), strict=True):
            seen = sorted(phases[block].get(lane, -9) for lane, _ in held)
            fits = len(seen) == 1 or (len(seen) == 2 and seen[1] - seen[0] == 1)
            if not fits or min(seen) < newest[block] - 1 or any(mask != 1 for _, mask in held):
                wrong.append((block, newest[block], seen, held))
            newest[block] = max([newest[block], *seen])
        lookups += 1
    pipe.send((lookups, wrong[:5], newest))


@pytest.mark.slow
@pytest.mark.parametrize("growing", [False, True])
def test_readers_elsewhere_only_see_sets_that_were_true(path: str, growing: bool) -> None:
    """Every block moves from lane to lane, never held by none; sets and slots are used again."""
    n, table = 2_000, Table(path=path)
    keys = mixed(n)
    table.apply(delta(Record(ADD, lane_of(i, 0), 1, (int(keys[i]),)) for i in range(n)))
    spawn = multiprocessing.get_context("spawn")
    pipe, their_pipe = spawn.Pipe()
    process = spawn.Process(target=read_until_told, args=(path, n, their_pipe))
    process.start()
    assert pipe.recv() == "ready"
    filler = np.random.default_rng(0).integers(2**63, 2**64, (PHASES, 5_000), dtype=np.uint64)
    for phase in range(1, PHASES):
        table.heartbeat()
        for op, when in ((ADD, phase), (REMOVE, phase - 1)):
            moves = (Record(op, lane_of(i, when), 1, (int(keys[i]),)) for i in range(n))
            table.apply(delta(moves))
        if growing:
            table.apply(Record(ADD, 1, 1, tuple(map(int, filler[phase]))).packed())
        if phase > 20:
            table.apply(Record(REMOVE, 1, 1, tuple(map(int, filler[phase - 20]))).packed())
    pipe.send("stop")
    lookups, wrong, newest = pipe.recv()
    process.join(timeout=30)
    assert process.exitcode == 0
    assert wrong == []
    assert lookups > 10
    assert max(newest) > 1
    table.close()


def look_forever(reader: TableReader, keys: U64) -> NoReturn:
    while True:
        reader.lookup(keys)


def test_a_reader_of_a_silent_writer_says_so_until_it_beats_again(path: str) -> None:
    table = Table(path=path)
    table.apply(Record(ADD, 1, 1, (7,)).packed())
    reader = TableReader(path, age_ms_max=20)
    key = np.array([7], np.uint64)
    with pytest.raises(StaleTableError, match="heartbeat"):
        look_forever(reader, key)
    table.heartbeat()
    assert TableReader(path, age_ms_max=A_MINUTE_MS).lookup(key) == [[(1, 1)]]
    table.close()


def test_a_closed_table_is_refused_by_old_readers_and_new_ones(path: str) -> None:
    table = Table(path=path)
    table.apply(Record(ADD, 1, 1, (7,)).packed())
    reader = TableReader(path)
    table.close()
    with pytest.raises(TableFileError, match=r"."):
        reader.lookup(np.array([7], np.uint64))
    with pytest.raises(TableFileError, match=r"."):
        TableReader(path)
    with pytest.raises(TableFileError, match=r"."):
        table.apply(Record(ADD, 1, 1, (7,)).packed())


def test_a_second_writer_is_refused_while_the_first_lives(path: str) -> None:
    first = Table(path=path)
    first.apply(Record(ADD, 1, 1, (7,)).packed())
    with pytest.raises(TableFileError, match="another"):
        Table(path=path)
    assert TableReader(path).lookup(np.array([7], np.uint64)) == [[(1, 1)]]
    first.close()
    Table(path=path).close()


def write_and_die(path: str) -> None:
    """In another process: leaves its files behind, as a killed one does."""
    table = Table(path=path)
    table.apply(Record(ADD, 1, 1, (7,)).packed())
    os._exit(9)


@pytest.mark.slow
def test_a_new_writer_follows_one_that_was_killed_and_old_readers_find_out(path: str) -> None:
    process = multiprocessing.get_context("spawn").Process(target=write_and_die, args=(path,))
    process.start()
    process.join(timeout=60)
    assert process.exitcode == 9
    reader, key = TableReader(path, age_ms_max=A_MINUTE_MS), np.array([7], np.uint64)
    assert reader.lookup(key) == [[(1, 1)]]
    before = reader.incarnation
    table = Table(path=path)
    table.apply(Record(ADD, 2, 1, (7,)).packed())
    assert TableReader(path).lookup(key) == [[(2, 1)]]
    assert TableReader(path).incarnation != before
    with contextlib.suppress(TableFileError):
        assert reader.lookup(key) == [[(2, 1)]]
    table.close()


def written(path: str, keys: U64) -> dict[str, bytes]:
    """The files, by name, of a table at `path` that holds the keys."""
    table = Table(path=path)
    table.apply(Record(ADD, 1, 1, tuple(map(int, keys))).packed())
    contents = {file.name: file.read_bytes() for file in Path(path).parent.iterdir()}
    table.close()
    return contents


def test_files_that_are_cut_short_or_foreign_are_refused(path: str) -> None:
    contents = written(path, mixed(10))
    folder = Path(path).parent
    for name, whole in contents.items():
        for wrong in (b"", whole[:1], whole[:64], whole[:4000], os.urandom(len(whole)), bytes(9_000)):
            for other, content in contents.items():
                (folder / other).write_bytes(wrong if other == name else content)
            with pytest.raises(TableFileError, match="table"):
                TableReader(path, age_ms_max=A_MINUTE_MS)
        (folder / name).unlink()
        with pytest.raises(TableFileError, match="table"):
            TableReader(path, age_ms_max=A_MINUTE_MS)


@pytest.mark.slow
def test_any_flipped_header_byte_is_refused_or_harmless(path: str) -> None:
    """Another version, another magic, sizes and offsets that lie: no reader runs off its file."""
    keys = mixed(1_000)
    contents, folder = written(path, keys), Path(path).parent
    for name, whole in contents.items():
        for other, content in contents.items():
            (folder / other).write_bytes(content)
        assert TableReader(path, age_ms_max=A_MINUTE_MS).lookup(keys) == [[(1, 1)]] * len(keys)
        refused = 0
        for at in range(256):
            for flip in (0x01, 0x80, 0xFF):
                changed = whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :]
                (folder / name).write_bytes(changed)
                try:
                    TableReader(path, age_ms_max=A_MINUTE_MS).lookup(keys)
                except TableFileError:
                    refused += 1
        assert refused >= 8 * 3, "at least the magic and the version are looked at"
        (folder / name).write_bytes(whole)


def test_no_table_at_all_is_one_clear_error(path: str) -> None:
    with pytest.raises(TableFileError, match="table"):
        TableReader(path)
    with pytest.raises(TableFileError, match=r"."):
        Table(path="/nonexistent/folder/table")
    with pytest.raises((InputError, TypeError), match="age_ms_max"):
        TableReader(path, age_ms_max=-1)
