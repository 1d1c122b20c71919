"""Several processes on one store: the cap holds at every moment, also while they are killed."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvatlas.offload.capacity.control import ControlFolder
from kvatlas.offload.capacity.ledger import Ledger
from kvatlas.offload.capacity.limits import CapacityLimits
from kvatlas.offload.evicting.evictor import Evictor
from kvatlas.offload.layout.space import Space
from tests.offload.capacity.stores_at_hand import bytes_of, make_store
from tests.offload.capacity.writing_process import write_until_killed
from tests.profiles import examples

CAP = 4 << 20
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["pytest", "tests.offload.capacity.writing_process"])
_SECONDS_MAX = 60.0
_KILLS = examples(12)


class Process:
    """A writer that is a fork of a process which has imported everything."""

    def __init__(self, space: Space, seed: int) -> None:
        self._told, theirs = _FORKS.Pipe(duplex=False)
        arguments = (space.root, space.part_folder, CAP, seed, theirs)
        self._process = _FORKS.Process(target=write_until_killed, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self._next()

    def stores(self, files: int) -> None:
        """Returns when it has stored so many more, less than 50."""
        for _ in range(files // 50):
            self._next()

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._told.close()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def _next(self) -> None:
        assert self._told.poll(_SECONDS_MAX), "the writer stores nothing"
        self._told.recv()  # EOFError: it has ended


@pytest.fixture
def space(tmp_path: Path) -> Space:
    return make_store(tmp_path / "store")


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    running: list[Process] = []
    yield running
    for process in running:
        process.kill()


@pytest.mark.slow
def test_four_processes_hold_one_cap_at_every_moment(space: Space, processes: list[Process]) -> None:
    processes += [Process(space, seed) for seed in range(4)]
    most, began_s = 0, time.monotonic()
    while (now_s := time.monotonic()) < began_s + 1.5 or most <= CAP // 2:
        assert now_s < began_s + _SECONDS_MAX, f"only {most} bytes of {CAP}"
        most = max(most, bytes_of(space.root))
    for process in processes:
        process.stores(50)
    assert most <= CAP


@pytest.mark.slow
def test_a_paused_process_does_not_write_into_room_that_others_were_given(
    space: Space, processes: list[Process]
) -> None:
    processes += [Process(space, seed) for seed in range(2)]
    for process in processes:
        process.stores(50)
    for _ in range(2):
        processes[0].pause()
        processes[1].stores(300)
        processes[0].go_on()
        processes[1].stores(50)
        assert bytes_of(space.root) <= CAP


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_processes_killed_at_any_moment_leave_a_store_that_is_evicted_and_counted_right(
    space: Space, processes: list[Process]
) -> None:
    chance = random.Random(7)
    processes += [Process(space, seed) for seed in range(3)]
    for round_number in range(_KILLS):
        victim = chance.randrange(3)
        processes[victim].stores(50)
        processes[victim].kill()
        assert bytes_of(space.root) <= CAP
        processes[victim] = Process(space, 10 + round_number)
    for process in processes:
        process.kill()
    control = ControlFolder(space.root)
    limits = CapacityLimits(
        capacity_bytes=CAP,
        lease_s=0.0,
        touch_s=0.0,
        temporary_s=0.0,
        crawl_s=0.0,
        period_s=0.001,
        dead_s=0.01,
        evictor_dead_s=0.01,
    )
    evictor = Evictor(space.root, limits, lambda *_: None)
    deadline_s = time.monotonic() + _SECONDS_MAX
    while not evictor.step() or Ledger(control).entries():
        assert time.monotonic() < deadline_s
    sums = Ledger(control).sums()
    assert (sums.used_bytes, sums.claimed_bytes) == (bytes_of(space.root),) * 2
    assert list(space.root.rglob("*.tmp")) == []
    evictor.close()
