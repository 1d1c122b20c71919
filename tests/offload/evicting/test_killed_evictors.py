"""An evictor that dies, at any system call and at any moment: nothing leased goes, all that goes is told."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from kvatlas.offload._native import chunk_name
from kvatlas.offload.capacity.control import ControlFolder
from kvatlas.offload.capacity.ledger import Ledger
from kvatlas.offload.capacity.limits import CapacityLimits
from kvatlas.offload.capacity.pins import write_pin
from kvatlas.offload.evicting import evictor as evictor_module
from kvatlas.offload.evicting.evictor import Evictor
from kvatlas.offload.layout.space import Space
from tests.offload.capacity.stores_at_hand import bytes_of, key_of, make_store, put, wait_until
from tests.profiles import examples

LIMITS = CapacityLimits(capacity_bytes=100 << 10, lease_s=100.0, evictor_dead_s=0.05)
_KILLS = examples(20)
CALLS = ("rename", "replace", "unlink", "open", "utime", "mkdir", "write")


class _DiedError(BaseException):
    """As kill -9: nothing of ours is run any more."""


def filled(root: Path, n_files: int) -> Space:
    """Of three: one was not used for long, one is pinned, one was used just now."""
    space = make_store(root)
    control = ControlFolder(root)
    control.prepare()
    for number in range(n_files):
        put(space.part_folder, key_of(number), age_s=30.0 if number % 3 == 2 else 5000.0 - number)
    write_pin(control, space.name, [key_of(number) for number in range(1, n_files, 3)])
    return space


def dying(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """At its call number `at`, of those that change files."""
    left = [at]

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise _DiedError
            return call(*arguments, **named)

        return run

    for name in CALLS:
        monkeypatch.setattr(os, name, counted(getattr(os, name)))


def recovered(space: Space, tell: Callable[[str, Sequence[bytes]], None]) -> None:
    """What the next evictor makes of it, once it has taken over."""
    evictor = Evictor(space.root, LIMITS, tell)
    wait_until(evictor.step, "it takes over")
    evictor._deleter.empty_trash(time.time_ns() + 1000, 0, int(LIMITS.lease_s * 1e9))
    evictor.close()


def check(space: Space, n_files: int, told: set[bytes]) -> None:
    here = {number for number in range(n_files) if (space.part_folder / chunk_name(key_of(number))).exists()}
    gone = set(range(n_files)) - here
    assert all(number % 3 == 0 for number in gone), "leased or pinned files went"
    assert {key_of(number) for number in gone} <= told, "a file went untold"
    trash = space.root / "control" / "trash"
    assert [path for path in trash.rglob("*") if path.is_file()] == []
    used = Ledger(ControlFolder(space.root)).sums().used_bytes
    assert used >= bytes_of(space.root) and len(gone) > 0


@pytest.mark.slow
def test_an_evictor_that_dies_at_any_system_call_loses_nothing_leased_and_nothing_untold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evictor_module, "_BATCH", 4)
    n_files, at = 36, 0
    while True:
        at += 1
        space = filled(tmp_path / f"{at}", n_files)
        told: set[bytes] = set()

        def tell(_space: str, keys: Sequence[bytes], told: set[bytes] = told) -> None:
            told.update(keys)

        evictor = Evictor(space.root, LIMITS, tell)
        with monkeypatch.context() as patched:
            dying(patched, at)
            try:
                evictor.step()
            except _DiedError:
                pass
            else:
                break
        recovered(space, tell)
        check(space, n_files, told)
    assert at > 40


_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["pytest", "tests.offload.evicting.test_killed_evictors"])


def evict_until_killed(root: Path, log: Path, told: Connection) -> None:
    with log.open("a") as file:

        def tell(_: str, keys: Sequence[bytes]) -> None:
            print(*(key.hex() for key in keys), sep="\n", file=file, flush=True)

        evictor = Evictor(root, LIMITS, tell, threads=2)
        told.send("ready")
        while True:
            evictor.step()


@pytest.mark.slow
def test_an_evictor_that_is_killed_at_any_moment_loses_nothing_leased_and_nothing_untold(
    tmp_path: Path,
) -> None:
    chance, n_files = random.Random(11), 600
    for round_number in range(_KILLS):
        space, log = filled(tmp_path / f"{round_number}", n_files), tmp_path / f"{round_number}.log"
        ours, theirs = _FORKS.Pipe(duplex=False)
        process = _FORKS.Process(target=evict_until_killed, args=(space.root, log, theirs), daemon=True)
        process.start()
        assert ours.recv() == "ready"
        time.sleep(chance.uniform(0.0, 0.06))  # the moment is what is tried, not waited for
        process.kill()
        process.join()
        told = {bytes.fromhex(line) for line in log.read_text().split()}
        recovered(space, lambda _, keys, told=told: told.update(keys))  # type: ignore[misc]
        check(space, n_files, told)
