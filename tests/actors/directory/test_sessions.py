"""Sessions of subscribers that are restarted, paused and lost."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kvatlas.actors.directory.sessions import Session, Sessions
from kvatlas.actors.orders import SubscriberReport
from kvatlas.index.view import FleetPart

LOST_S = 3.0
SWAP_S = 30.0
names = st.sampled_from(["0", "1"])


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def sessions_of(clock: Clock) -> Sessions:
    numbers = iter(range(1, 10_000))
    return Sessions(issue=lambda: next(numbers), lost_s=LOST_S, swap_s_max=SWAP_S, clock_s=clock)


def report(session: Session, *, settled: bool = True, part: bool = True) -> SubscriberReport:
    return SubscriberReport(
        session=session.number,
        name=session.subscriber,
        settled=settled,
        part=FleetPart(stores={str(session.number): 0}) if part else None,
    )


class SessionsOfProcesses(RuleBasedStateMachine):
    """Every process that ever enlisted goes on reporting, as a paused one does that comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.sessions = sessions_of(self.clock)
        self.processes: list[Session] = []
        self.loaded: set[int] = set()
        self.over: set[int] = set()
        self.had_part: set[str] = set()

    @rule(name=names)
    def enlist(self, name: str) -> None:
        session, over = self.sessions.enlist(name, "node")
        self.over |= {one.number for one in over}
        assert session.number > max((one.number for one in self.processes), default=0)
        self.processes.append(session)

    @rule(data=st.data(), settled=st.booleans())
    def report(self, data: st.DataObject, settled: bool) -> None:
        if not self.processes:
            return
        session = data.draw(st.sampled_from(self.processes))
        heard = self.sessions.hear(report(session, settled=settled))
        newest = max(one.number for one in self.processes if one.subscriber == session.subscriber)
        superseded = session.number < newest and self.sessions.find(newest) is not None
        assert (heard is None) == (superseded or session.number in self.over)
        if heard is not None and self.sessions.used[session.subscriber] is heard:
            self.had_part.add(session.subscriber)

    @rule(data=st.data())
    def load(self, data: st.DataObject) -> None:
        if self.processes:
            self.loaded.add(data.draw(st.sampled_from(self.processes)).number)

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        self.clock.now_s += seconds
        for session in self.sessions.lose_silent():
            assert self.clock.now_s - session.heard_s > LOST_S

    @rule()
    def swap(self) -> None:
        for old, new in self.sessions.swap(lambda one: one.number in self.loaded):
            ready = new.settled and new.number in self.loaded
            assert ready or self.clock.now_s - new.began_s > SWAP_S
            assert old.number < new.number
            self.over.add(old.number)

    @rule(name=names)
    def drop(self, name: str) -> None:
        self.over |= {session.number for session in self.sessions.drop(name)}
        self.had_part.discard(name)

    @invariant()
    def retired_sessions_are_those_that_are_over(self) -> None:
        assert set(self.sessions.retired) == self.over
        assert not self.over & {session.number for session in self.sessions.all}

    @invariant()
    def a_subscriber_that_readers_know_keeps_a_part(self) -> None:
        for name in self.had_part:
            assert self.sessions.used[name].part is not None

    @invariant()
    def a_session_that_is_being_replaced_is_lost(self) -> None:
        assert all(self.sessions.used[name].lost for name in self.sessions.coming)
        assert self.sessions.numbers == tuple(sorted(one.number for one in self.sessions.used.values()))
        assert set(self.sessions.lost) <= set(self.sessions.numbers)


TestSessions = SessionsOfProcesses.TestCase


def test_a_restarted_subscriber_takes_its_place_only_when_it_is_settled_and_loaded() -> None:
    clock = Clock()
    sessions = sessions_of(clock)
    first, _ = sessions.enlist("0", "node")
    sessions.hear(report(first))
    second, over = sessions.enlist("0", "node")
    assert over == [] and first.lost and sessions.numbers == (first.number,)
    sessions.hear(report(second, settled=False))
    assert sessions.swap(lambda _: True) == []
    sessions.hear(report(second))
    assert sessions.swap(lambda _: False) == []
    assert sessions.swap(lambda _: True) == [(first, second)]
    assert sessions.numbers == (second.number,) and list(sessions.retired) == [first.number]


def test_a_session_that_nobody_could_have_used_does_not_stand_in_the_way() -> None:
    sessions = sessions_of(Clock())
    first, _ = sessions.enlist("0", "node")
    second, over = sessions.enlist("0", "node")
    assert over == [first] and sessions.numbers == (second.number,)


def test_a_session_of_an_earlier_life_stands_until_its_successor_is_ready() -> None:
    sessions = sessions_of(Clock())
    sessions.restore(7, "0", is_used=True)
    new, over = sessions.enlist("0", "node")
    assert over == [] and sessions.coming["0"] is new
    assert sessions.numbers == (7,) == sessions.lost
