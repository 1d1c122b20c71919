"""The breaker before a server that fails."""

from __future__ import annotations

import pytest

from kvatlas.index.remote.connection.links.breaker import Breaker


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(2.0, clock)


def test_all_may_ask_while_nothing_fails(breaker: Breaker) -> None:
    assert all(breaker.may_ask(1) for _ in range(3))
    breaker.succeeded()
    assert breaker.may_ask(1) and not breaker.is_open


def test_after_a_failure_nobody_may_ask_until_the_time_is_over_and_then_one(
    breaker: Breaker, clock: Clock
) -> None:
    breaker.failed()
    assert breaker.is_open and not breaker.may_ask(1)
    assert 0.0125 <= breaker.wait_s() <= 0.025
    clock.now_s += 0.025
    assert breaker.may_ask(1)
    assert not breaker.may_ask(1)  # one is asking
    breaker.succeeded()
    assert breaker.may_ask(1) and breaker.may_ask(1)


def test_the_time_doubles_up_to_its_bound(breaker: Breaker, clock: Clock) -> None:
    for failures in range(64):
        breaker.failed()
        most_s = min(2.0, 0.025 * 2 ** min(failures, 20))
        assert most_s / 2 <= breaker.wait_s() <= most_s
        clock.now_s += most_s
        assert breaker.may_ask(1)


def test_those_that_fail_at_one_time_are_one_failure(breaker: Breaker, clock: Clock) -> None:
    for _ in range(32):
        breaker.failed()
    assert breaker.wait_s() <= 0.025


def test_one_that_never_says_what_came_of_it_does_not_lock_the_others_out(
    breaker: Breaker, clock: Clock
) -> None:
    breaker.failed()
    clock.now_s += 1
    assert breaker.may_ask(0.5)
    assert not breaker.may_ask(0.5)
    clock.now_s += 0.6
    assert breaker.may_ask(0.5)
