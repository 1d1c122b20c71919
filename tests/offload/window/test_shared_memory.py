"""The window's memory: made by whoever comes first, without a name when all are there, and nobody's when
all are gone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kvatlas.index.errors import StoreError
from kvatlas.offload.window.shared_memory import PAGE_BYTES, WindowMemory, WindowShape, attach
from kvatlas.offload.window.tickets import TICKETS

SHAPE = WindowShape(n_rows=4, row_bytes=2 * PAGE_BYTES, n_ranks=2)

_ATTACH_AND_WAIT = """
import sys
from kvatlas.offload.window.shared_memory import WindowShape, attach
folder, rank = sys.argv[1], int(sys.argv[2])
memory = attach(folder, "engine", WindowShape(4, 8192, 2), rank=rank)
memory.rows[rank] = 42
memory.board[rank, 7] = 1000 + rank
print("attached", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


class Others:
    """Processes that attach, and stay until they are told to go or are killed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.processes: list[subprocess.Popen[str]] = []

    def attach(self, rank: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _ATTACH_AND_WAIT, str(self._folder), str(rank)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "attached\n"
        return process


@pytest.fixture
def others(folder: Path) -> Iterator[Others]:
    started = Others(folder)
    yield started
    for process in started.processes:
        process.kill()
        process.communicate()


def _attach(
    folder: Path, rank: int | None, *, shape: WindowShape = SHAPE, seconds: float = 30.0
) -> WindowMemory:
    return attach(str(folder), "engine", shape, rank=rank, seconds=seconds)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
def test_processes_share_rows_and_board_in_whatever_order_they_come(folder: Path, others: Others) -> None:
    others.attach(1)
    manager = _attach(folder, None)
    assert not manager.has_all_workers
    others.attach(0)
    assert manager.has_all_workers
    assert (manager.rows[0], manager.rows[1]) == (42, 42)
    assert (manager.board[0, 7], manager.board[1, 7]) == (1000, 1001)
    assert manager.board.shape == (2, TICKETS)
    manager.close()


def test_the_name_is_gone_when_all_have_attached(folder: Path) -> None:
    first, second = _attach(folder, 0), _attach(folder, 1)
    assert _names(folder) == ["kvatlas-window-engine"]
    manager = _attach(folder, None)
    assert _names(folder) == []
    for memory in (first, second, manager):
        memory.close()


def test_the_last_one_to_leave_takes_an_incomplete_window_away(folder: Path) -> None:
    first, second = _attach(folder, 0), _attach(folder, 1)
    first.close()
    first.close()
    assert _names(folder) == ["kvatlas-window-engine"]
    second.close()
    assert _names(folder) == []


@pytest.mark.slow
def test_what_a_killed_engine_left_is_removed_by_the_next_one(folder: Path, others: Others) -> None:
    process = others.attach(0)
    process.kill()
    process.wait()
    assert _names(folder) == ["kvatlas-window-engine"]
    another = attach(str(folder), "another", SHAPE, rank=0)
    assert _names(folder) == ["kvatlas-window-another"]
    another.close()


@pytest.mark.slow
def test_an_engine_of_the_same_id_starts_with_empty_memory_after_a_kill(folder: Path, others: Others) -> None:
    process = others.attach(0)
    process.kill()
    process.wait()
    memory = _attach(folder, None)
    assert not memory.has_all_workers
    assert not np.frombuffer(memory.rows, np.uint8).any()
    assert not memory.board.any()


@pytest.mark.slow
def test_the_window_of_a_living_engine_is_left_alone(folder: Path, others: Others) -> None:
    others.attach(0)
    attach(str(folder), "another", SHAPE, rank=0).close()
    assert _names(folder) == ["kvatlas-window-engine"]


def test_another_shape_under_the_same_id_is_refused(folder: Path) -> None:
    first = _attach(folder, 0)
    with pytest.raises(
        StoreError, match=r"expected .* 5, 8192\), got .* 4, 8192\).*another engine of the same id"
    ):
        _attach(folder, 1, shape=WindowShape(5, 2 * PAGE_BYTES, 2))
    assert _names(folder) == ["kvatlas-window-engine"]
    first.close()


def test_a_window_that_does_not_fit_is_refused_and_leaves_nothing(folder: Path) -> None:
    with pytest.raises(StoreError, match="expected room for"):
        _attach(folder, 0, shape=WindowShape(1 << 40, 2 * PAGE_BYTES, 2))
    assert _names(folder) == []


def test_a_folder_that_does_not_exist_is_refused(folder: Path) -> None:
    with pytest.raises(StoreError, match="No such file"):
        _attach(folder / "nowhere", 0)


def test_many_that_come_at_once_get_the_same_memory(folder: Path) -> None:
    shape = WindowShape(2, PAGE_BYTES, 16)
    got: list[WindowMemory] = []

    def come(rank: int) -> None:
        memory = attach(str(folder), "engine", shape, rank=rank)
        memory.board[rank, 0] = rank + 1
        got.append(memory)

    threads = [threading.Thread(target=come, args=(rank,)) for rank in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 16
    assert all(memory.board[:, 0].tolist() == list(range(1, 17)) for memory in got)
    for memory in got:
        memory.close()
    assert _names(folder) == []


def test_a_worker_that_leaves_is_seen(folder: Path) -> None:
    first, second, manager = _attach(folder, 0), _attach(folder, 1), _attach(folder, None)
    assert manager.has_all_workers
    second.leave(1)
    assert not manager.has_all_workers
    for memory in (first, second, manager):
        memory.close()


def test_what_somebody_else_has_put_in_its_place_is_neither_emptied_nor_used(folder: Path) -> None:
    treasure = folder / "treasure"
    treasure.write_text("theirs")
    (folder / "kvatlas-window-linked").symlink_to(treasure)
    os.mkfifo(folder / "kvatlas-window-pipe")
    for engine in ("linked", "pipe"):
        with pytest.raises(StoreError, match="window"):
            attach(str(folder), engine, SHAPE, rank=0, seconds=1.0)
    assert treasure.read_text() == "theirs"


def test_the_manager_sees_the_numa_node_that_all_workers_devices_share(folder: Path) -> None:
    manager, *workers = [attach(str(folder), "engine", SHAPE, rank=rank) for rank in (None, 0, 1)]
    seen = [manager.numa_node]
    for rank, node in ((0, 1), (1, 1), (1, -1), (1, 0), (0, 0), (0, 4000)):
        workers[rank].note_numa_node(rank, node)
        seen.append(manager.numa_node)
    assert seen == [-1, -1, 1, 1, -1, 0, 0]
    assert manager.has_all_workers
    for rank in (0, 1):
        workers[rank].leave(rank)
    assert manager.numa_node == -1
    for memory in (manager, *workers):
        memory.close()
