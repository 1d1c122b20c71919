"""The breaker: when it opens, when it tries again, what closes it."""

from __future__ import annotations

from kvatlas.offload.storing.breaker import Breaker


def opened(now_s: float = 0.0) -> Breaker:
    breaker = Breaker(2, 1.0, 8.0)
    breaker.failed(now_s, 2)
    return breaker


def test_it_opens_after_failures_in_a_row_and_not_before() -> None:
    breaker = Breaker(3, 1.0, 8.0)
    for _ in range(2):
        breaker.failed(0.0)
        breaker.failed(0.0)
        assert breaker.is_closed and breaker.admits(0.0)
        breaker.succeeded()
    breaker.failed(0.0, 3)
    assert not breaker.is_closed and not breaker.admits(0.99)
    assert breaker.times_opened == 1


def test_one_trial_is_admitted_when_the_wait_is_over() -> None:
    breaker = opened()
    assert breaker.admits(1.0)
    breaker.tried(1.0)
    assert not breaker.admits(1.1)
    breaker.succeeded()
    assert breaker.is_closed and breaker.admits(1.2)


def test_each_failed_trial_doubles_the_wait_up_to_the_bound() -> None:
    breaker, now_s, waits = opened(), 0.0, []
    for _ in range(6):
        before_s = now_s
        while not breaker.admits(now_s):
            now_s += 0.25
        waits.append(now_s - before_s)
        breaker.tried(now_s)
        breaker.failed(now_s)
    assert waits == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert breaker.times_opened == 1


def test_failures_of_what_was_under_way_when_it_opened_do_not_lengthen_the_wait() -> None:
    breaker = opened()
    breaker.failed(0.9, 50)
    assert breaker.admits(1.0)


def test_a_trial_that_is_never_answered_is_followed_by_another() -> None:
    breaker = opened()
    breaker.tried(1.0)
    assert not breaker.admits(8.9)
    assert breaker.admits(9.0)


def test_a_store_that_fails_again_soon_waits_longer_and_one_that_was_well_for_long_does_not() -> None:
    breaker = opened()
    breaker.succeeded()
    breaker.failed(2.0, 2)
    assert not breaker.admits(3.9) and breaker.admits(4.0)
    breaker.succeeded()
    breaker.failed(12.0, 2)
    assert breaker.admits(13.0)


def test_what_was_shut_stays_open_whatever_succeeds() -> None:
    breaker = Breaker(2, 1.0, 8.0)
    breaker.shut()
    breaker.succeeded()
    breaker.failed(5.0, 9)
    assert not breaker.is_closed and not breaker.admits(1e9)
