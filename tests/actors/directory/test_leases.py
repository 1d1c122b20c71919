"""Leases beside a model that knows the owner of every number."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kvatlas.actors.directory.leases import Leases
from kvatlas.actors.orders import Lease
from kvatlas.index.errors import InputError

N_NUMBERS = 40
REST_S = 60.0

sessions = st.integers(1, 5)


class LeasesBesideOwners(RuleBasedStateMachine):
    """Owner of each number: a session, or the time at which it is free."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.leases = Leases(N_NUMBERS, REST_S, lambda: self.now_s)
        self.owners: dict[int, int] = {}
        self.free_at_s = dict.fromkeys(range(N_NUMBERS), 0.0)

    def free(self) -> set[int]:
        return {
            n for n, free_at_s in self.free_at_s.items() if n not in self.owners and free_at_s <= self.now_s
        }

    @rule(session=sessions, count=st.integers(1, 12))
    def lend(self, session: int, count: int) -> None:
        if not self.free():
            with pytest.raises(InputError, match="expected a free number"):
                self.leases.lend(session, count)
            return
        lease = self.leases.lend(session, count)
        numbers = set(range(lease.first, lease.first + lease.count))
        assert 1 <= lease.count <= count and numbers <= self.free()
        self.owners.update(dict.fromkeys(numbers, session))

    @rule(session=sessions)
    def end(self, session: int) -> None:
        self.leases.end(session)
        for number in [number for number, owner in self.owners.items() if owner == session]:
            del self.owners[number]
            self.free_at_s[number] = self.now_s + REST_S

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def restart(self) -> None:
        held, resting = self.leases.held, self.leases.resting
        self.leases = Leases(N_NUMBERS, REST_S, lambda: self.now_s)
        self.leases.restore(held, resting)
        for lease in resting:  # they rest anew
            for number in range(lease.first, lease.first + lease.count):
                self.free_at_s[number] = self.now_s + REST_S

    @invariant()
    def each_number_has_the_owner_that_the_model_says(self) -> None:
        held = {
            number: session
            for session, leases in self.leases.held.items()
            for lease in leases
            for number in range(lease.first, lease.first + lease.count)
        }
        assert held == self.owners
        assert self.leases.n_free == len(self.free())


TestLeases = LeasesBesideOwners.TestCase


def test_the_whole_range_is_one_again_after_rest() -> None:
    now_s = 0.0
    leases = Leases(10, REST_S, lambda: now_s)
    for session in range(5):
        leases.lend(session, 2)
    for session in (3, 0, 4, 1, 2):
        leases.end(session)
    with pytest.raises(InputError):
        leases.lend(9, 1)
    now_s = REST_S
    assert leases.lend(9, 10) == Lease(0, 10)


def test_what_was_kept_with_two_owners_is_refused() -> None:
    leases = Leases(10, REST_S, lambda: 0.0)
    with pytest.raises(InputError, match="expected free numbers, got 2 to 5"):
        leases.restore({1: (Lease(0, 4),), 2: (Lease(2, 4),)}, [])
