"""Storage: what it asks, believes and announces. Its store is in memory and ends jobs on command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kvatlas.offload.backends.backend import Outcome
from kvatlas.offload.storing.announcements import Announcement
from kvatlas.offload.storing.known import ABSENT, ASKED, PRESENT
from kvatlas.offload.storing.storage import Done
from tests.offload.storing.files_at_hand import wait_for
from tests.offload.storing.scripted_backend import ROW_BYTES, ScriptedBackend, key_of
from tests.offload.storing.storage_rig import Rig, keys, removed, rows, stored

# --- looking up ---------------------------------------------------------------


def test_what_is_not_known_is_asked_for_once_a_step_and_answered_with_the_next() -> None:
    rig = Rig()
    rig.store.files = {key_of(1): b"", key_of(3): b""}
    assert rig.lookup(1, 2, 3, 1) == [ASKED] * 4
    assert rig.store.probed == []
    rig.step()
    assert rig.store.probed == [keys(1, 2, 3)]
    assert rig.lookup(1, 2, 3) == [PRESENT, ABSENT, PRESENT]
    rig.step()
    assert len(rig.store.probed) == 1


def test_a_question_under_way_is_not_asked_again() -> None:
    rig = Rig()
    for _ in range(3):
        assert rig.lookup(1) == [ASKED]
        rig.storage.end_step()
    assert rig.store.probed == [keys(1)]


def test_absence_is_believed_for_a_while() -> None:
    rig = Rig(absent_s=5.0)
    rig.lookup(1)
    rig.step()
    rig.store.files[key_of(1)] = b""
    rig.now_s += 4.9
    assert rig.lookup(1) == [ABSENT]
    rig.now_s += 0.2
    assert rig.lookup(1) == [ASKED]
    rig.step()
    assert rig.lookup(1) == [PRESENT]


def test_a_question_that_the_store_has_no_room_for_is_answered_with_absent() -> None:
    rig = Rig()
    rig.store.takes_jobs = False
    rig.lookup(1)
    rig.step()
    assert rig.lookup(1) == [ABSENT]
    assert rig.counter("dropped_queue") == 1


def test_a_key_of_another_length_is_absent_and_never_stored() -> None:
    rig = Rig()
    assert rig.storage.lookup(b"short") == ABSENT
    rig.storage.store(1, [b"short"], rows(0))
    rig.storage.load(2, [b"short"], rows(0))
    rig.storage.touch([b"short"])
    assert not rig.storage.present_of([b"short"])
    assert [(done.job, list(done.failed)) for done in rig.step()] == [(1, [b"short"]), (2, [b"short"])]
    assert rig.counter("foreign_keys") == 2


# --- moving ---------------------------------------------------------------


def test_what_was_written_is_present_at_once_and_announced() -> None:
    rig = Rig()
    rig.store.memory[5] = 55
    done = rig.write(5)
    assert done == Done(7, False, keys(5), [], ROW_BYTES, 0.001)
    assert rig.announced() == [stored(5)]
    assert rig.lookup(5) == [PRESENT]
    rig.store.memory[5] = 0
    assert rig.read(5).ok == keys(5)
    assert (rig.store.memory[5] == 55).all()


def test_what_was_there_already_is_announced_too() -> None:
    rig = Rig()
    rig.store.files[key_of(5)] = b""
    assert rig.write(4, 5).ok == keys(4, 5)
    assert rig.announced() == [stored(4, 5)]
    assert rig.counter("stored") == 1 and rig.counter("present") == 1


def test_what_a_probe_has_found_is_not_announced() -> None:
    rig = Rig()
    rig.store.files[key_of(5)] = b""
    rig.lookup(5)
    rig.step()
    assert rig.lookup(5) == [PRESENT]
    assert rig.announced() == []


def test_a_write_that_failed_is_never_announced() -> None:
    rig = Rig(breaker_failures=10)
    rig.store.outcomes = {key_of(2): Outcome.FAILED, key_of(3): Outcome.TIMED_OUT}
    done = rig.write(1, 2, 3, 4)
    assert (done.ok, done.failed) == (keys(1, 4), keys(2, 3))
    assert rig.announced() == [stored(1, 4)]


def test_a_load_that_failed_makes_its_keys_absent_for_a_while() -> None:
    rig = Rig(absent_s=5.0, breaker_failures=10)
    rig.write(1, 2, 3)
    rig.announced()
    rig.store.outcomes = {key_of(2): Outcome.FAILED}
    done = rig.read(1, 2, 3)
    assert (done.ok, done.failed) == (keys(1, 3), keys(2))
    assert rig.lookup(1, 2, 3) == [PRESENT, ABSENT, PRESENT]
    assert rig.announced() == [], "it is still there, for all that is known"
    rig.now_s += 5.1
    rig.store.outcomes.clear()
    assert rig.lookup(2) == [ASKED]
    rig.step()
    assert rig.lookup(2) == [PRESENT]


def test_what_is_gone_or_corrupt_is_announced_as_removed() -> None:
    rig = Rig()
    rig.write(1, 2, 3)
    rig.announced()
    del rig.store.files[key_of(1)]
    rig.store.outcomes = {key_of(2): Outcome.CORRUPT}
    done = rig.read(1, 2, 3)
    assert (done.ok, done.failed) == (keys(3), keys(1, 2))
    assert rig.announced() == [removed(1, 2)]
    assert rig.counter("corrupt") == 1 and rig.counter("gone") == 1
    assert not rig.storage.statistics().is_down, "a store that answers is not down"


def test_what_the_process_evicts_is_absent_and_announced() -> None:
    rig = Rig()
    rig.write(1, 2)
    rig.store.evict(key_of(1))
    rig.step()
    assert rig.lookup(1, 2) == [ABSENT, PRESENT]
    assert rig.announced() == [stored(1, 2), removed(1)]


def test_a_load_that_the_store_has_no_room_for_fails_at_once() -> None:
    rig = Rig()
    rig.write(1)
    rig.store.takes_jobs = False
    assert rig.read(1).failed == keys(1)
    assert rig.lookup(1) == [ABSENT]


def test_only_what_is_known_to_be_there_is_touched() -> None:
    rig = Rig()
    rig.write(1, 2)
    rig.storage.touch(keys(1, 2, 3))
    assert rig.store.touches == keys(1, 2)
    rig.read(2)
    assert rig.store.touches == keys(1, 2, 2)


def test_callers_numbers_of_loads_and_stores_may_be_the_same() -> None:
    rig = Rig()
    rig.write(1)
    rig.storage.store(1, keys(2), rows(2))
    rig.storage.load(1, keys(1), rows(1))
    assert [(done.job, done.is_load, done.ok) for done in rig.step()] == [
        (1, False, keys(2)),
        (1, True, keys(1)),
    ]


# --- inventory, ending ---------------------------------------------------------------


def with_inventory(batches: Sequence[list[bytes]], **options: Any) -> Rig:
    store = ScriptedBackend()
    store.there_at_start = list(batches)
    return Rig(store, inventory=True, **options)


def test_what_is_there_at_start_is_known_and_announced_a_little_at_a_time() -> None:
    rig = with_inventory([keys(*range(10)), keys(*range(10, 25))], inventory_keys_per_step=4)
    told: list[bytes] = []

    def one_step() -> bool:
        rig.storage.end_step()
        for announcement in rig.announced():
            assert not announcement.is_removal and len(announcement.keys) <= 4
            told.extend(announcement.keys)
        return not rig.storage.is_busy

    wait_for(one_step)
    assert told == keys(*range(25))
    assert rig.lookup(*range(25)) == [PRESENT] * 25
    assert rig.counter("inventory") == 25
    rig.storage.close()


def test_what_was_removed_while_the_inventory_goes_on_is_not_told_as_there() -> None:
    rig = with_inventory([keys(1, 2, 3)], inventory_keys_per_step=1)
    first: list[Announcement] = []

    def first_step() -> bool:
        rig.storage.end_step()
        first.extend(rig.announced())
        return bool(first)

    wait_for(first_step)
    assert first == [stored(1)]
    rig.store.removed = keys(2)
    announced: list[Announcement] = []

    def one_step() -> bool:
        rig.storage.end_step()
        announced.extend(rig.announced())
        return not rig.storage.is_busy

    wait_for(one_step)
    assert announced == [removed(2), stored(3)]
    rig.storage.close()


def test_a_drain_that_gives_up_still_ends_every_job() -> None:
    rig = Rig()
    rig.storage.store(1, keys(1), rows(1))
    rig.storage.load(2, keys(2), rows(2))
    assert rig.storage.is_busy
    assert rig.storage.drain(0.1) is False
    assert [(done.job, list(done.ok)) for done in rig.storage.finished()] == [(1, []), (2, [])]
    assert not rig.storage.is_busy and rig.announced() == []
    rig.storage.close()
    assert rig.store.is_closed


def test_names_of_other_keys_in_a_store_are_no_concern_of_the_engine_s() -> None:
    """Whoever puts a file of a shorter name there has it found at start, and evicted some day."""
    backend = ScriptedBackend()
    backend.there_at_start = [[key_of(1), b"short"]]
    rig = Rig(backend, inventory=True)
    wait_for(lambda: (rig.step(), rig.counter("inventory") == 1)[1])
    assert rig.announced() == [stored(1)]
    rig.store.removed = [b"short", key_of(1), b"much longer" * 6]
    rig.step()
    assert rig.announced() == [removed(1)]
    assert rig.counter("foreign_keys") == 3
