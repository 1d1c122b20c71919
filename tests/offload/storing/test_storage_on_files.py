"""Storage over real files: what was stored is what is loaded, or the load fails; whoever wrote it."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kvatlas.index.errors import StoreError
from kvatlas.offload._native import chunk_name
from kvatlas.offload.storing.known import ABSENT, PRESENT
from tests.offload.storing.files_at_hand import (
    Process,
    fields_of,
    key_of,
    names,
    open_process,
    wait_for,
)


@contextmanager
def process(root: Path, **options: Any) -> Iterator[Process]:
    opened = open_process(root, **options)
    try:
        yield opened
    finally:
        opened.storage.close()


def file_of(root: Path, number: int) -> Path:
    (path,) = root.glob(f"*/all/{chunk_name(key_of(number))}")
    return path


def test_what_one_process_stores_another_loads(tmp_path: Path) -> None:
    with process(tmp_path / "kv") as writer, process(tmp_path / "kv", inventory=False) as reader:
        assert reader.lookup(1) == [ABSENT]
        assert names(writer.store(1, 2, 3).ok, 1, 2, 3)
        assert reader.lookup(2, 3, 4) == [PRESENT, PRESENT, ABSENT]
        assert names(reader.load(2, 3).ok, 2, 3) and reader.holds(2, 3)
        assert names(writer.load(1).ok, 1) and writer.holds(1)


def test_what_was_stored_before_a_restart_is_known_and_announced(tmp_path: Path) -> None:
    with process(tmp_path / "kv") as writer:
        writer.store(*range(40))
    told: list[bytes] = []
    with process(tmp_path / "kv") as restarted:

        def all_told() -> bool:
            for announcement in restarted.storage.take_announcements():
                assert not announcement.is_removal
                told.extend(announcement.keys)
            return not restarted.storage.is_busy

        restarted.until(all_told)
        assert names(told, *range(40))
        assert restarted.storage.lookup(key_of(7)) == PRESENT, "at once, without a question"
        assert names(restarted.load(*range(40)).ok, *range(40)) and restarted.holds(*range(40))


def test_the_same_chunk_is_written_once(tmp_path: Path) -> None:
    with process(tmp_path / "kv") as one, process(tmp_path / "kv") as other:
        one.store(1)
        written_at = file_of(tmp_path / "kv", 1).stat().st_ctime_ns
        assert names(other.store(1).ok, 1)
        assert other.storage.statistics().counters["present"] == 1
        assert file_of(tmp_path / "kv", 1).stat().st_ctime_ns == written_at


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 4096)


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(9000)
        byte = file.read(1)
        file.seek(9000)
        file.write(bytes([byte[0] ^ 4]))


def swap(path: Path) -> None:
    """Another chunk's file under this name."""
    os.replace(file_of(path.parents[3], 2), path)


@pytest.mark.parametrize("harm", [cut, flip, swap, Path.unlink])
def test_a_harmed_file_fails_to_load_is_told_as_removed_and_can_be_written_anew(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    root = tmp_path / "kv"
    with process(root, absent_s=0.01) as storing:
        storing.store(1, 2, 3)
        storing.storage.take_announcements()
        harm(file_of(root, 1))
        done = storing.load(1, 3)
        assert names(done.ok, 3) and names(done.failed, 1)
        assert storing.holds(3)
        (announcement,) = storing.storage.take_announcements()
        assert announcement.is_removal and names(announcement.keys, 1)
        counters = storing.storage.statistics().counters
        assert counters["corrupt"] + counters["gone"] == 1
        assert names(storing.store(1).ok, 1)
        assert storing.lookup(1) == [PRESENT]
        assert names(storing.load(1).ok, 1) and storing.holds(1)


@pytest.mark.slow
def test_the_cap_evicts_what_was_used_longest_ago_and_says_so(tmp_path: Path) -> None:
    options = {"capacity_bytes": 30 * 20480, "lease_s": 1.1, "touch_s": 0.01, "time_limit_s": 1.0}
    with process(tmp_path / "kv", write_budget_s=0.5, **options) as storing:
        removed: list[bytes] = []
        stored: set[bytes] = set()

        def store_more() -> bool:
            number = len(stored)
            stored.update(storing.store(number).ok)
            for announcement in storing.storage.take_announcements():
                if announcement.is_removal:
                    removed.extend(announcement.keys)
            return len(removed) > 10

        wait_for(store_more)
        assert stored.issuperset(removed)
        states = {key: storing.storage.lookup(key) for key in removed}
        assert set(states.values()) == {ABSENT}
        held = sum(path.stat().st_size for path in (tmp_path / "kv").glob("*/all/*/*.kv"))
        assert held <= options["capacity_bytes"]
        assert storing.storage.statistics().counters["removed"] >= len(removed)


@pytest.mark.slow
def test_memory_is_let_go_of_when_it_is_closed(tmp_path: Path) -> None:
    opened = open_process(tmp_path / "kv")
    opened.store(1)
    view = opened.memory.data
    opened.storage.close()
    opened.storage.close()
    view.release()
    assert opened.storage.lookup(key_of(9)) != PRESENT
    gc.collect()


# --- a store that cannot be used ---------------------------------------------------------------


def test_a_folder_of_another_store_is_refused(tmp_path: Path) -> None:
    with process(tmp_path / "kv", name="fleet"):
        pass
    with pytest.raises(StoreError, match=r"store other at .*expected store 'other', got 'fleet'"):
        open_process(tmp_path / "kv", name="other", required=False)


def test_a_space_of_other_fields_is_another_space(tmp_path: Path) -> None:
    with process(tmp_path / "kv", name="fleet") as one:
        one.store(1)
    with process(tmp_path / "kv", name="fleet", fields=fields_of("acme/other")) as other:
        assert other.lookup(1) == [ABSENT]


def test_a_root_that_is_not_there_is_an_error_where_it_is_required(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"No such file"):
        open_process(tmp_path / "not" / "mounted")


def test_a_root_that_comes_later_is_used_then(tmp_path: Path) -> None:
    root = tmp_path / "not" / "mounted"
    with process(root, required=False, breaker_s_min=0.01, absent_s=0.01) as late:
        assert late.lookup(1) == [ABSENT]
        assert names(late.store(1).failed, 1)
        root.parent.mkdir()
        wait_for(lambda: names(late.store(1).ok, 1))
        assert late.lookup(1) == [PRESENT]
        assert names(late.load(1).ok, 1) and late.holds(1)


def test_a_root_that_hangs_at_start_is_an_error_in_bounded_time(tmp_path: Path) -> None:
    root = tmp_path / "kv"
    root.mkdir()
    os.mkfifo(root / "store.json")  # whoever opens it for reading waits for a writer
    with pytest.raises(StoreError, match="kv"):
        open_process(root, time_limit_s=0.3, write_budget_s=0.1)


@pytest.mark.slow
def test_a_store_that_hangs_fails_what_asks_it_and_is_left_alone_until_it_answers(tmp_path: Path) -> None:
    root = tmp_path / "kv"
    options = {"time_limit_s": 1.0, "write_budget_s": 0.5, "breaker_failures": 2, "breaker_s_min": 1.0}
    with process(root, absent_s=0.01, **options) as storing:
        wait_for(lambda: names(storing.store(1, 2, 3).ok, 1, 2, 3))
        for number in (1, 2):
            path = file_of(root, number)
            path.rename(path.with_suffix(".aside"))
            os.mkfifo(path)  # whoever opens it waits, as on a mount whose server is gone
        done = storing.load(1, 2)
        assert names(done.failed, 1, 2)
        statistics = storing.storage.statistics()
        assert statistics.is_down and statistics.counters["timed_out"] == 2
        assert storing.storage.lookup(key_of(3)) == ABSENT, "it is not asked"
        assert names(storing.store(4).failed, 4)

        def answers_again() -> bool:
            storing.storage.lookup(key_of(3))  # somebody wants it
            storing.storage.end_step()
            return names(storing.load(3).ok, 3)

        wait_for(answers_again)
        assert storing.holds(3) and not storing.storage.statistics().is_down
        hung = [file_of(root, number) for number in (1, 2)]

        def nobody_waits() -> bool:
            """Whoever waits at a pipe goes on when it has a writer; it may come back to try otherwise."""
            for path in hung:
                with contextlib.suppress(OSError):
                    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
            return storing.storage.statistics().backend["hung"] == 0

        wait_for(nobody_waits)
