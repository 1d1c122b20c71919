"""Storage, when it goes wrong: what is dropped, when a store counts as down, how it comes back."""

from __future__ import annotations

import pytest

from kvatlas.offload.backends.backend import Outcome
from kvatlas.offload.storing.known import ABSENT, PRESENT
from tests.offload.storing.scripted_backend import key_of
from tests.offload.storing.storage_rig import Rig, keys, rows, stored

# --- what is not written ---------------------------------------------------------------


def test_writes_beyond_the_budget_are_dropped_and_never_announced() -> None:
    rig = Rig(write_budget_s=0.0)
    rig.storage.store(1, keys(1, 2, 3), rows(1, 2, 3))
    rig.storage.store(2, keys(4), rows(4))
    first, second = sorted(rig.step(), key=lambda done: done.job)
    assert (first.ok, first.failed) == (keys(1), keys(2, 3))
    assert (second.ok, second.failed) == ((), keys(4))
    assert rig.announced() == [stored(1)]
    assert rig.counter("dropped_budget") == 3
    assert rig.storage.statistics().write_queue_bytes == 0


def test_writes_beyond_the_cap_are_dropped_and_leave_no_queue_behind() -> None:
    rig = Rig()
    rig.store.is_full = True
    assert rig.write(1, 2).failed == keys(1, 2)
    assert rig.counter("dropped_capacity") == 2
    assert rig.storage.statistics().write_queue_bytes == 0


def test_writes_that_the_queue_has_no_room_for_are_dropped() -> None:
    rig = Rig()
    rig.store.takes_jobs = False
    assert rig.write(1, 2).failed == keys(1, 2)
    assert rig.counter("dropped_queue") == 2
    assert rig.storage.statistics().write_queue_bytes == 0


def test_a_full_store_is_read_and_not_written_until_a_trial_finds_room() -> None:
    rig = Rig(breaker_s_min=1.0)
    rig.write(1)
    rig.store.outcomes = {key_of(2): Outcome.NO_SPACE}
    assert rig.write(2).failed == keys(2)
    assert not rig.storage.statistics().takes_writes and not rig.storage.statistics().is_down
    assert rig.read(1).ok == keys(1)
    assert rig.write(3).failed == keys(3) and rig.counter("dropped_down") == 1
    rig.now_s += 1.0
    assert (rig.write(4, 5).ok, key_of(5) in rig.store.files) == (keys(4), False), "one chunk is tried"
    assert rig.storage.statistics().takes_writes
    assert rig.write(5, 6).ok == keys(5, 6)


def test_a_read_only_store_is_still_read() -> None:
    rig = Rig()
    rig.write(1)
    rig.store.outcomes = {key_of(2): Outcome.READ_ONLY}
    rig.write(2)
    assert not rig.storage.statistics().takes_writes
    assert rig.read(1).ok == keys(1)


def test_writes_that_fail_while_reads_succeed_stop_writes_alone() -> None:
    rig = Rig(breaker_failures=2)
    rig.write(1)
    for number in (2, 3):
        rig.store.outcomes = {key_of(number): Outcome.FAILED}
        rig.write(number)
        rig.read(1)
    statistics = rig.storage.statistics()
    assert not statistics.takes_writes and not statistics.is_down


# --- a store that is down ---------------------------------------------------------------


def down(outcome: Outcome = Outcome.TIMED_OUT) -> Rig:
    rig = Rig(breaker_failures=3, breaker_s_min=1.0)
    rig.write(1)
    rig.announced()
    rig.store.fails_with = outcome
    rig.lookup(2, 3, 4)
    rig.step()
    assert rig.storage.statistics().is_down
    return rig


def test_while_it_is_down_everything_is_absent_and_nothing_is_asked() -> None:
    rig = down()
    asked = len(rig.store.probed)
    assert rig.lookup(1, 9) == [ABSENT, ABSENT]
    assert rig.write(5).failed == keys(5)
    assert rig.read(1).failed == keys(1)
    assert len(rig.store.probed) == asked and not rig.store.waiting
    assert rig.counter("lookups_down") == 2 and rig.counter("dropped_down") == 1
    assert rig.storage.statistics().last_error == "TIMED_OUT"


def test_what_was_known_before_it_went_down_is_known_after() -> None:
    rig = down()
    rig.store.fails_with = None
    rig.lookup(1)
    rig.now_s += 1.0
    rig.step()
    assert not rig.storage.statistics().is_down
    assert rig.lookup(1) == [PRESENT]
    assert rig.read(1).ok == keys(1)


def test_a_trial_is_one_key_that_somebody_wants_and_waits_double_when_it_fails() -> None:
    rig = down(Outcome.FAILED)
    asked = len(rig.store.probed)
    rig.now_s += 1.0
    rig.step()
    assert len(rig.store.probed) == asked, "nobody wants anything"
    rig.lookup(6, 7, 8)
    rig.step()
    assert rig.store.probed[asked:] == [keys(8)]
    rig.lookup(7)
    rig.now_s += 1.9
    rig.step()
    assert len(rig.store.probed) == asked + 1
    rig.now_s += 0.2
    rig.step()
    assert rig.store.probed[asked + 1 :] == [keys(7)]


def test_a_wish_to_write_has_a_store_that_is_down_tried_too() -> None:
    rig = down()
    rig.write(5)
    rig.store.fails_with = None
    rig.now_s += 1.0
    rig.step()
    assert not rig.storage.statistics().is_down
    assert rig.write(5).ok == keys(5)


@pytest.mark.slow
def test_what_was_noted_to_be_asked_when_it_went_down_is_answered() -> None:
    rig = Rig(breaker_failures=1)
    rig.store.fails_with = Outcome.FAILED
    rig.lookup(1)
    rig.storage.end_step()
    rig.lookup(2)
    rig.store.run()
    rig.step()
    rig.store.fails_with = None
    rig.lookup(3)
    rig.now_s += 1.0
    rig.step()
    assert not rig.storage.statistics().is_down
    assert rig.lookup(2) == [ABSENT]


def test_a_storage_that_was_shut_is_never_asked_again() -> None:
    rig = Rig()
    rig.write(1)
    rig.storage.shut("another hash")
    rig.now_s += 1e6
    assert rig.lookup(1) == [ABSENT]
    rig.step()
    assert rig.lookup(1) == [ABSENT] and rig.write(2).failed == keys(2)
    assert rig.storage.statistics().last_error == "another hash"
