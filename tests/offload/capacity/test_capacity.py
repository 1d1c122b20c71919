"""Capacity as a writing process has it: threads, real files."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kvatlas.offload._native import chunk_name
from kvatlas.offload.capacity.capacity import Capacity
from kvatlas.offload.capacity.control import ControlFolder
from kvatlas.offload.capacity.limits import CapacityLimits
from kvatlas.offload.capacity.notices import RemovalNotices
from kvatlas.offload.layout.space import Space
from tests.offload.capacity.stores_at_hand import (
    bytes_of,
    files_of,
    key_of,
    last_used,
    make_store,
    put,
    store,
    wait_until,
)

KB = 1024
Opened = Callable[..., Capacity]


@pytest.fixture
def space(tmp_path: Path) -> Space:
    return make_store(tmp_path / "store")


@pytest.fixture
def opened(space: Space) -> Iterator[Opened]:
    made: list[Capacity] = []

    def make(of: Space = space, **given: Any) -> Capacity:
        fast = {"period_s": 0.01, "dead_s": 30.0, "lease_s": 0.0, "touch_s": 0.0}
        one = Capacity(
            of.root, CapacityLimits(**{**fast, **given}), writer=os.urandom(16), folder=of.part_folder
        )
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()


def told(capacity: Capacity) -> list[bytes]:
    """The first removals that it tells of."""
    removed: list[bytes] = []

    def has_come() -> bool:
        removed.extend(capacity.take_removed())
        return bool(removed)

    wait_until(has_come, "a removal is told")
    return removed


@pytest.mark.slow
def test_a_store_takes_files_up_to_its_cap_and_evicts_then(space: Space, opened: Opened) -> None:
    capacity = opened(capacity_bytes=400 * KB)
    number = 0
    removed: list[bytes] = []

    def has_evicted() -> bool:
        nonlocal number
        number += store(capacity, space.part_folder, key_of(number), 4 * KB)
        assert bytes_of(space.root) <= 400 * KB
        removed.extend(capacity.take_removed())
        return len(removed) > 80

    wait_until(has_evicted, "files come and go")
    there = {path.name for path in files_of(space.root)}
    assert not {chunk_name(key).rpartition("/")[2] for key in removed} & there


def test_a_file_larger_than_what_is_left_below_high_finds_room(space: Space, opened: Opened) -> None:
    capacity = opened(capacity_bytes=400 * KB, high_share=0.95, low_share=0.85)
    keys = iter(range(10**6))
    wait_until(
        lambda: store(capacity, space.part_folder, key_of(next(keys)), 90 * KB) and next(keys) > 40,
        "large files replace each other",
    )
    assert bytes_of(space.root) <= 400 * KB


def test_without_a_limit_everything_may_be_stored_and_is_told_in_the_ledger(
    space: Space, opened: Opened
) -> None:
    capacity = opened()
    for number in range(10):
        assert store(capacity, space.part_folder, key_of(number))
    other = opened()
    wait_until(lambda: other.statistics().used_bytes == 10 * 4096, "others see it")
    assert capacity.statistics().is_open and capacity.statistics().evictor is None


def test_nothing_is_stored_where_nobody_has_counted(space: Space, opened: Opened) -> None:
    put(space.part_folder, key_of(1), 300 * KB)
    capacity = opened(capacity_bytes=400 * KB, evicts=False)
    wait_until(lambda: "nobody has counted" in capacity.statistics().why, "it is said why")
    assert not capacity.may_store(4 * KB)
    opened(capacity_bytes=400 * KB)
    wait_until(lambda: capacity.may_store(4 * KB), "another process counts")
    assert capacity.statistics().used_bytes >= 300 * KB


def test_a_use_is_noted_on_the_file(space: Space, opened: Opened) -> None:
    path = put(space.part_folder, key_of(1), age_s=5000.0)
    before = path.stat().st_mtime_ns
    capacity = opened()
    capacity.touched([key_of(1)])
    wait_until(lambda: path.stat().st_mtime_ns > before, "its date is renewed")


def test_a_use_of_a_file_that_is_gone_tells_so(opened: Opened) -> None:
    capacity = opened()
    capacity.touched([key_of(7)])
    assert told(capacity) == [key_of(7)] and capacity.statistics().gone == 1


@pytest.mark.slow
def test_what_is_in_use_is_not_evicted_while_others_fill_the_store(space: Space, opened: Opened) -> None:
    used = key_of(10**6)
    path = put(space.part_folder, used, 4 * KB)
    capacity = opened(capacity_bytes=400 * KB, lease_s=5.0, touch_s=0.01, low_share=0.5)
    for old in range(60):
        put(space.part_folder, key_of(10**7 + old), 4 * KB, age_s=100.0)
    number = 0

    def has_evicted() -> bool:
        nonlocal number
        capacity.touched([used])
        number += store(capacity, space.part_folder, key_of(number), 4 * KB)
        evictor = capacity.statistics().evictor
        return evictor is not None and evictor.evicted_bytes > 200 * KB

    wait_until(has_evicted, "others are evicted")
    assert path.exists()


def test_removals_of_another_space_reach_those_who_announce_for_it(space: Space, opened: Opened) -> None:
    other = make_store(space.root, "another/model")
    for number in range(50):
        put(other.part_folder, key_of(number), 4 * KB, age_s=1000.0)
    theirs = opened(other, evicts=False, capacity_bytes=100 * KB)
    ours = opened(capacity_bytes=100 * KB)
    removed: list[bytes] = []

    def all_told() -> bool:
        removed.extend(theirs.take_removed())
        return len(removed) >= 50 - len(files_of(space.root)) > 0

    wait_until(all_told, "the other space's process is told")
    assert ours.take_removed() == []
    there = {path.name for path in files_of(space.root)}
    assert not {chunk_name(key).rpartition("/")[2] for key in removed} & there


def test_a_notice_of_what_was_stored_again_since_is_not_told(space: Space, opened: Opened) -> None:
    notices = RemovalNotices(space.root)
    put(space.part_folder, key_of(1))
    notices.leave(space.name, [key_of(1), key_of(2)])
    (space.root / "control" / "removed" / space.name / "torn.keys").write_bytes(b"{")
    capacity = opened()
    assert told(capacity) == [key_of(2)]
    assert list((space.root / "control" / "removed" / space.name).iterdir()) == []


def test_a_store_that_vanishes_stops_stores_and_comes_back(space: Space, opened: Opened) -> None:
    capacity = opened(capacity_bytes=400 * KB, dead_s=0.2)
    wait_until(lambda: capacity.may_store(4 * KB), "it is open")
    capacity.not_stored(4 * KB)
    away = space.root.with_name("away")
    space.root.rename(away)
    wait_until(lambda: "expected the folder of a store" in capacity.statistics().why, "it says so")
    wait_until(lambda: not capacity.may_store(1), "the grant runs out")
    assert not space.root.exists()
    away.rename(space.root)
    wait_until(lambda: capacity.may_store(4 * KB), "it is open again")


def test_another_store_at_the_same_place_is_not_written(space: Space, opened: Opened) -> None:
    """As after an unmount: an empty folder, or another file system, lies where the store was."""
    control = ControlFolder(space.root)
    control.check()
    control._device = -1  # what stat says after a remount
    control.check()
    control._device = -1
    (space.root / "store.json").write_text('{"id": "another"}')
    with pytest.raises(Exception, match="expected the store that it was"):
        control.check()


def test_a_writer_whose_entry_was_taken_for_dead_begins_a_new_one(space: Space, opened: Opened) -> None:
    capacity = opened(capacity_bytes=400 * KB, crawl_s=0.0)
    wait_until(lambda: store(capacity, space.part_folder, key_of(1)), "it is open")
    ledger = space.root / "control" / "ledger"
    (first,) = ledger.glob("*.json")

    def is_ended() -> bool:
        with contextlib.suppress(FileNotFoundError):
            last_used(first, 3600.0)  # again: the writer may just have renewed it
        return not first.exists()

    wait_until(is_ended, "the evictor ends it")
    wait_until(lambda: len(list(ledger.glob("*.json"))) == 1, "a new one is there")
    number = iter(range(10, 10**6))
    for _ in range(20):
        wait_until(lambda: store(capacity, space.part_folder, key_of(next(number))), "it goes on")
    assert bytes_of(space.root) <= 400 * KB


@pytest.mark.slow
def test_a_file_system_that_hangs_holds_up_nobody(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks how much room it has waits, as on a mount whose server is gone."""
    answers, ask = threading.Event(), os.statvfs

    def hang(path: Path) -> os.statvfs_result:
        answers.wait()
        return ask(path)

    monkeypatch.setattr(os, "statvfs", hang)
    limits = CapacityLimits(capacity_bytes=400 * KB)
    capacity = Capacity(space.root, limits, writer=bytes(16), folder=space.part_folder)
    assert not capacity.may_store(4 * KB)
    capacity.touched([key_of(1)])
    assert capacity.take_removed() == [] and not capacity.statistics().is_open
    capacity.close()  # and not for ever
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("kvatlas-capacity")]
    assert len(threads) >= 2  # they do hang
    answers.set()
    for thread in threads:
        thread.join(60)


def test_closing_gives_back_what_was_claimed(space: Space, opened: Opened) -> None:
    capacity = opened(capacity_bytes=400 * KB)
    wait_until(lambda: store(capacity, space.part_folder, key_of(1)), "it is open")
    capacity.close()
    capacity.close()
    other = opened(capacity_bytes=400 * KB)
    wait_until(lambda: other.may_store(300 * KB), "nearly all is free")
    assert not (space.root / "control" / "evictor.lease").exists() or other.statistics().evictor is not None
