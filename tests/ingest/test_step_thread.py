"""A thread that does what is due, step by step."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from kvatlas.ingest.step_thread import StepThread

WAIT_S = 30.0


class Steps:
    """Counts them; each does what it is told, and says that the next is due after an hour."""

    def __init__(self, does: Callable[[], object] = lambda: None) -> None:
        self.changed = threading.Event()
        self.taken = threading.Semaphore(0)
        self.count = 0
        self._does = does

    def step(self) -> float:
        self.changed.clear()
        self.count += 1
        self.taken.release()
        self._does()
        return 3600.0

    def wait_taken(self) -> None:
        assert self.taken.acquire(timeout=WAIT_S)


def test_a_step_is_taken_at_the_start_and_after_each_change() -> None:
    steps = Steps()
    thread = StepThread("steps", steps.step, steps.changed, gather_s=0.001)
    thread.start()
    for _ in range(3):
        steps.wait_taken()
        steps.changed.set()
    steps.wait_taken()
    thread.stop()
    assert steps.count == 4
    assert thread.failure is None


def test_a_step_that_says_so_is_followed_by_the_next_without_a_change() -> None:
    again = threading.Semaphore(0)

    def step() -> float:
        again.release()
        return 0.0

    thread = StepThread("steps", step, threading.Event())
    thread.start()
    assert all(again.acquire(timeout=WAIT_S) for _ in range(3))
    thread.stop()


def test_no_step_is_taken_after_the_stop_and_one_under_way_is_waited_for() -> None:
    goes_on = threading.Event()
    steps = Steps(lambda: goes_on.wait(WAIT_S))
    thread = StepThread("steps", steps.step, steps.changed)
    thread.start()
    steps.wait_taken()
    stopper = threading.Thread(target=thread.stop)
    stopper.start()
    goes_on.set()
    stopper.join(WAIT_S)
    assert not stopper.is_alive()
    thread.stop()
    steps.changed.set()
    assert (steps.count, thread.is_stopping) == (1, True)


def test_a_stop_during_a_step_that_clears_the_change_is_not_forgotten() -> None:
    stopped: list[StepThread] = []

    def step() -> float:
        stopped[0].stop()  # by itself: it does not wait for itself
        changed.clear()
        return 3600.0

    changed = threading.Event()
    thread = StepThread("steps", step, changed)
    stopped.append(thread)
    thread.start()
    thread._thread.join(WAIT_S)
    assert not thread._thread.is_alive()


def test_one_that_was_never_started_can_be_stopped() -> None:
    steps = Steps()
    thread = StepThread("steps", steps.step, steps.changed)
    thread.stop()
    assert steps.count == 0


def test_what_a_step_raises_ends_the_thread_and_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    def step() -> float:
        raise OverflowError("too many")

    failed = threading.Event()
    thread = StepThread("the steps", step, threading.Event(), failed=failed.set)
    thread.start()
    assert failed.wait(WAIT_S)
    assert isinstance(thread.failure, OverflowError)
    thread.stop()
    assert "the steps has ended" in caplog.text
