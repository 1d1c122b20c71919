"""The window: what lookups promise, what is loaded, stored, waited for and forgotten. Copies, store and
memory are real.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvatlas.offload.layout.reading import check_chunk
from kvatlas.offload.window.window import HIT, MISS, PENDING, RETRY
from tests.offload.window.engine_rig import N_RANKS, Rig, Worker, key_of, keys_of, start


class Engines:
    """Starts engines on one store, and ends them all."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "store"
        self.running: list[Rig] = []

    def start(self, **options: Any) -> Rig:
        rig = start(self.root, engine=f"engine{len(self.running)}", **options)
        self.running.append(rig)
        return rig

    def files(self) -> list[Path]:
        return sorted(self.root.glob("*/all/*/*.kv"))


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[Engines]:
    started = Engines(tmp_path)
    yield started
    for rig in started.running:
        rig.close()


# --- lookups and transfers ----------------------------------------------------------------------------------


def test_a_chunk_is_a_hit_when_all_ranks_have_stored_it_and_comes_back_on_each(engines: Engines) -> None:
    rig = engines.start()
    begun = rig.begin_store(1, 2, 3)
    assert rig.look(1, 2, 3, 4) == [PENDING, PENDING, PENDING, RETRY]
    for worker in rig.workers:
        worker.end(rig.jobs)
    rig.window.complete_store(set(begun.keys))
    assert rig.look(1, 2, 3) == [HIT] * 3
    assert rig.load(1, 2, 3)


def test_what_was_stored_is_written_and_another_engine_loads_it(engines: Engines) -> None:
    rig = engines.start()
    rig.store_and_write(1, 2, 3)
    assert len(engines.files()) == 3
    assert {check_chunk(path).key for path in engines.files()} == set(keys_of([1, 2, 3]))
    other = engines.start(storage={"inventory": False})
    assert other.look(1, 2, 3, 4) == [RETRY] * 4
    assert other.look_until_known(1, 2, 3, 4) == [HIT, HIT, HIT, MISS]
    assert other.load(1, 2, 3)
    assert other.window.statistics().loaded == 3


def test_nothing_is_promised_while_the_bytes_are_on_their_way(engines: Engines) -> None:
    engines.start().store_and_write(1)
    other = engines.start()
    other.until(lambda: other.storage.present_of([key_of(1)]) != [])  # by the inventory
    assert other.look(1) == [PENDING]
    other.step()
    seen = set()
    while HIT not in seen:
        seen.update(other.look(1))
        other.step()
    assert seen <= {PENDING, HIT}


def test_what_the_store_has_is_not_copied_again(engines: Engines) -> None:
    engines.start().store_and_write(1, 2)
    other = engines.start()
    other.until(lambda: len(other.storage.present_of(keys_of([1, 2]))) == 2)
    begun = other.window.prepare_store(keys_of([1, 2, 3]))
    assert begun is not None and begun.keys == keys_of([3])


def test_a_chunk_that_two_requests_compute_is_stored_once(engines: Engines) -> None:
    rig = engines.start()
    first, second = rig.begin_store(1, 2), rig.window.prepare_store(keys_of([1, 2]))
    assert len(first.keys) == 2
    assert second is not None and (second.keys, second.ticket) == ([], 0)


def test_the_least_recently_used_chunks_leave_for_new_ones_and_come_back_from_files(engines: Engines) -> None:
    rig = engines.start(n_rows=4)
    rig.store_and_write(1, 2, 3, 4)
    rig.look(1)
    rig.step()
    begun = rig.store(5, 6)
    assert begun.evicted == keys_of([2, 3])
    assert rig.look(1, 4, 5, 6) == [HIT] * 4
    assert rig.look_until_known(2, 3, request="other") == [HIT, HIT]
    assert rig.load(2, 3, request="other")


def test_changes_of_the_window_are_told_in_order(engines: Engines) -> None:
    rig = engines.start(n_rows=2)
    rig.store_and_write(1, 2)
    rig.store(3)
    told = [(list(change.keys), change.is_removal) for change in rig.window.take_changes()]
    assert told == [(keys_of([1, 2]), False), (keys_of([1]), True), (keys_of([3]), False)]
    assert rig.window.take_changes() == []


# --- what fails ---------------------------------------------------------------------------------------------


def _fail_next(worker: Worker) -> None:
    """The worker's next copy names a row that does not exist, as a broken one would."""
    submit = worker.submit

    def broken(job: int, rows: Any, ticket: int, *, is_load: bool) -> None:
        worker.submit = submit  # type: ignore[method-assign]
        submit(job, np.full_like(rows, -1), ticket, is_load=is_load)

    worker.submit = broken  # type: ignore[method-assign]


def test_a_store_that_failed_on_one_rank_is_forgotten(engines: Engines) -> None:
    rig = engines.start()
    _fail_next(rig.workers[1])
    rig.store(1, 2)
    assert rig.look_until_known(1, 2) == [MISS, MISS]
    assert rig.window.statistics().failed_device_stores == 1
    assert rig.window.statistics().slots.free == 16
    rig.store(1, 2)
    assert rig.look(1, 2) == [HIT, HIT] and rig.load(1, 2)


def test_a_request_whose_load_failed_computes_and_others_load(engines: Engines) -> None:
    rig = engines.start()
    rig.store(1, 2)
    assert rig.look(1, 2, request="a") == [HIT, HIT]
    _fail_next(rig.workers[0])
    assert not rig.load(1, 2, request="a")
    assert rig.window.statistics().failed_device_loads == 1
    rig.step()
    assert rig.look(1, 2, request="a") == [MISS, MISS]
    assert rig.look(1, 2, request="b") == [HIT, HIT] and rig.load(1, 2, request="b")


@pytest.mark.parametrize("damage", ["flipped", "truncated", "deleted"])
def test_a_file_that_does_not_verify_is_a_miss(engines: Engines, damage: str) -> None:
    engines.start().store_and_write(1, 2)
    path = next(path for path in engines.files() if check_chunk(path).key == key_of(2))
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[5000] ^= 0x10
        path.write_bytes(content)
    elif damage == "truncated":
        path.write_bytes(content[:-4096])
    else:
        path.unlink()
    other = engines.start(storage={"absent_s": 60.0})
    assert other.look_until_known(1, 2) == [HIT, MISS]
    assert other.load(1)
    assert other.window.statistics().slots.filling == 0


def test_without_all_ranks_nothing_is_promised_or_taken(engines: Engines) -> None:
    rig = engines.start(n_workers=N_RANKS - 1)
    assert rig.look(1) == [MISS]
    assert rig.window.prepare_store(keys_of([1])) is None
    assert rig.window.statistics().refused_stores == 1


def test_a_worker_that_has_lost_its_device_ends_the_window(engines: Engines) -> None:
    rig = engines.start()
    rig.store_and_write(1)
    assert rig.look(1) == [HIT]
    rig.workers[1].memory.leave(1)
    rig.step()
    assert rig.look(1) == [MISS]
    assert rig.window.prepare_store(keys_of([2])) is None


# --- waiting ------------------------------------------------------------------------------------------------


def test_a_request_waits_for_so_long_and_then_computes(engines: Engines) -> None:
    engines.start().store_and_write(1)
    other = engines.start(wait_s_max=2.0, storage={"inventory": False})
    assert other.look(1) == [RETRY]  # no step: the store is never asked
    other.now_s += 1.9
    assert other.look(1, request="late") == [RETRY]
    assert other.look(1) == [RETRY]
    other.now_s += 0.2
    assert other.look(1, request="late") == [RETRY]
    assert other.look(1) == [MISS]
    assert other.window.statistics().gave_up == 1


@pytest.mark.slow
def test_a_pipe_in_a_files_place_keeps_nobody_waiting(engines: Engines) -> None:
    engines.start().store_and_write(1, 2)
    path = next(path for path in engines.files() if check_chunk(path).key == key_of(2))
    path.unlink()
    os.mkfifo(path)
    other = engines.start(storage={"time_limit_s": 0.5, "write_budget_s": 0.2, "absent_s": 60.0})
    assert other.look_until_known(1, 2) == [HIT, MISS]
    assert other.load(1)


def test_what_a_waiting_request_has_found_stays_for_it_until_it_ends(engines: Engines) -> None:
    engines.start().store_and_write(9)
    rig = engines.start(n_rows=4, storage={"inventory": False})
    rig.store_and_write(1, 2)
    assert rig.look(1, 2, 9) == [HIT, HIT, RETRY]
    rig.step()
    assert rig.window.statistics().held == 2
    rig.store_and_write(5, 6)
    assert rig.window.statistics().slots.pinned == 2
    assert rig.window.prepare_store(keys_of([7, 8, 10])) is None, "two of four slots are held"
    rig.window.forget("r")
    assert (rig.window.statistics().held, rig.window.statistics().slots.pinned) == (0, 0)
    assert rig.window.prepare_store(keys_of([7, 8, 10])) is not None


def test_what_is_held_for_a_request_that_never_asks_again_is_let_go(engines: Engines) -> None:
    rig = engines.start(hold_s_max=5.0, storage={"inventory": False})
    rig.store_and_write(1)
    rig.look(1, 9)
    rig.step()
    assert rig.window.statistics().held == 1
    rig.now_s += 6.0
    rig.look(1, request="other")
    rig.step()
    rig.now_s += 1.5
    rig.step()
    assert (rig.window.statistics().held, rig.window.statistics().slots.pinned) == (0, 0)
    assert rig.window.statistics().expired_holds == 1


def test_a_request_gets_no_more_than_its_share_of_the_window(engines: Engines) -> None:
    engines.start().store_and_write(*range(10))
    other = engines.start(n_rows=8, request_share=0.5)
    assert other.look_until_known(*range(10)) == [HIT] * 4 + [MISS] * 6
    assert other.load(*range(4))
    assert other.window.statistics().cut_lookups > 0


def test_requests_that_want_more_than_the_window_get_it_one_after_the_other(engines: Engines) -> None:
    engines.start().store_and_write(*range(8))
    other = engines.start(n_rows=4)
    assert other.look_until_known(0, 1, 2, 3, request="a") == [HIT] * 4
    other.look(4, 5, 6, 7, request="b")
    assert other.look(0, 1, 2, 3, request="a") == [HIT] * 4 and other.load(0, 1, 2, 3, request="a")
    assert other.look_until_known(4, 5, 6, 7, request="b") == [HIT] * 4
    assert other.load(4, 5, 6, 7, request="b")


# --- resets -------------------------------------------------------------------------------------------------


def test_a_reset_empties_the_window_and_leaves_the_files(engines: Engines) -> None:
    rig = engines.start()
    rig.store_and_write(1, 2)
    rig.window.reset()
    assert rig.window.statistics().slots.free == 16
    assert rig.look_until_known(1, 2) == [HIT, HIT], "from files"
    assert rig.load(1, 2)


def test_slots_that_workers_were_copying_at_a_reset_are_free_when_they_have_ended(engines: Engines) -> None:
    rig = engines.start()
    rig.store_and_write(1, 2)
    rig.look(1, 2)
    load = rig.begin_load(1, 2)
    store = rig.begin_store(3).ticket and rig.jobs
    rig.window.reset()
    rig.step()
    assert rig.window.statistics().abandoned == 2
    assert rig.window.statistics().slots.free == 13
    rig.workers[0].copies.wait([load, store])
    rig.workers[0].copies.finished()
    rig.step()
    assert rig.window.statistics().abandoned == 2, "one rank is not done"
    rig.window.complete_load("r")  # what is reported late is of no account
    rig.window.complete_store({key_of(3)})
    rig.workers[1].copies.wait([load, store])
    rig.workers[1].copies.finished()
    rig.step()
    assert rig.window.statistics().abandoned == 0
    assert rig.window.statistics().slots.free == 16
