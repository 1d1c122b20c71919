"""Pauses between questions to a server that is not reached."""

from __future__ import annotations

import pytest

from kvatlas.ingest.back_off import BackOff


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_pauses_double_up_to_a_bound_and_begin_anew_after_an_answer() -> None:
    clock = Clock()
    back_off = BackOff(0.3, clock)
    assert [back_off.failed() for _ in range(5)] == [0.05, 0.1, 0.2, 0.3, 0.3]
    back_off.succeeded()
    assert back_off.failed() == 0.05


def test_a_server_is_down_from_its_first_failure_to_its_next_answer() -> None:
    clock = Clock()
    back_off = BackOff(2.0, clock)
    assert (back_off.is_down, back_off.down_s, back_off.wait_s) == (False, 0.0, 0.0)
    back_off.failed()
    clock.now_s += 4.0
    back_off.failed()
    assert (back_off.is_down, back_off.down_s) == (True, 4.0)
    back_off.succeeded()
    assert (back_off.is_down, back_off.down_s, back_off.wait_s) == (False, 0.0, 0.0)


def test_it_may_be_asked_when_the_pause_is_over() -> None:
    clock = Clock()
    back_off = BackOff(2.0, clock)
    back_off.failed()
    assert back_off.wait_s == pytest.approx(0.05)
    clock.now_s += 1.0
    assert back_off.wait_s == 0.0
    assert back_off.is_down


def test_a_server_that_answers_can_be_left_alone_as_well() -> None:
    back_off = BackOff(2.0, Clock())
    assert back_off.pause() == 0.05
    assert back_off.wait_s == pytest.approx(0.05)
    assert not back_off.is_down
    assert back_off.failed() == 0.1


def test_a_thousand_failures_overflow_nothing() -> None:
    back_off = BackOff(2.0, Clock())
    assert [back_off.failed() for _ in range(5000)][-1] == 2.0
