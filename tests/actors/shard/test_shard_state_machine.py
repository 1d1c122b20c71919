"""A shard beside a plain one: messages lost, doubled, out of order, of wrong sessions, malformed."""

from __future__ import annotations

import struct

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kvatlas.actors.link import messages
from kvatlas.actors.link.messages import Address, Kind, Message
from tests.actors.shard.plain_shard import LOADED, PlainShard
from tests.actors.shard.shard_rig import INCARNATION, KEYS, Talk, holders, service
from tests.models.table import ADD, CLEAR_LANE, REMOVE, TIER_BITS, Record, delta
from tests.profiles import examples

SESSIONS = st.integers(1, 3)
LANES = st.integers(0, 3)
RECORDS = st.lists(
    st.one_of(
        st.builds(
            Record,
            st.sampled_from([ADD, ADD, REMOVE]),
            LANES,
            st.sampled_from(TIER_BITS),
            st.lists(st.sampled_from(KEYS), min_size=1, max_size=8).map(tuple),
            st.sampled_from([1, 9]),
        ),
        st.builds(Record, st.just(CLEAR_LANE), LANES),
    ),
    max_size=5,
)
AHEAD = st.sampled_from([1, 1, 1, 1, 1, 0, -1, 2, 9])
"""How a message's number lies to the last one applied; nearly always the next."""


class ShardStateMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.shard, self.plain = service(), PlainShard()

    def number(self, session: int, ahead: int) -> int:
        known = self.plain.sessions.get(session)
        return max(0, (known.have if known else 0) + ahead)

    def check(self, answer: Message, expected: Kind, session: int) -> None:
        assert answer.kind is expected
        if expected in (Kind.APPLIED, Kind.RESYNC):
            assert answer.number == self.plain.sessions[session].have
        if expected is Kind.FENCED:
            assert answer.is_session_over

    @rule(session=SESSIONS)
    def hello(self, session: int) -> None:
        self.check(Talk(self.shard, session).hello(), self.plain.hello(session), session)

    @rule(session=SESSIONS, records=RECORDS)
    def next_delta(self, session: int, records: list[Record]) -> None:
        answer = Talk(self.shard, session).delta(self.number(session, 1), *records)
        self.check(answer, self.plain.delta(session, self.number(session, 1), records), session)

    @rule(session=SESSIONS, ahead=AHEAD, records=RECORDS)
    def delta(self, session: int, ahead: int, records: list[Record]) -> None:
        number = self.number(session, ahead)
        answer = Talk(self.shard, session).delta(number, *records)
        self.check(answer, self.plain.delta(session, number, records), session)

    @rule(
        session=SESSIONS,
        ahead=AHEAD,
        records=RECORDS,
        more=st.sets(LANES, max_size=2),
        exact=st.sampled_from([True, True, True, False]),
        first=st.booleans(),
        last=st.booleans(),
    )
    def content(
        self,
        session: int,
        ahead: int,
        records: list[Record],
        more: set[int],
        exact: bool,
        first: bool,
        last: bool,
    ) -> None:
        number = self.number(session, ahead)
        lanes = sorted(more | ({record.lane for record in records} if exact else set()))
        answer = Talk(self.shard, session).content(number, lanes, *records, first=first, last=last)
        expected = self.plain.content(session, number, lanes, records, first, last)
        self.check(answer, expected, session)

    @rule(
        session=SESSIONS,
        records=RECORDS,
        lanes=st.lists(LANES, unique=True, min_size=1, max_size=3),
        is_complete=st.booleans(),
    )
    def load(self, session: int, records: list[Record], lanes: list[int], is_complete: bool) -> None:
        """As a subscriber does: a part for each lane, and perhaps not the last one yet."""
        for lane in lanes:
            number, part = self.number(session, 1), [record for record in records if record.lane == lane]
            first, last = lane == lanes[0], is_complete and lane == lanes[-1]
            answer = Talk(self.shard, session).content(number, [lane], *part, first=first, last=last)
            self.check(answer, self.plain.content(session, number, [lane], part, first, last), session)

    @rule(sessions=st.sets(SESSIONS, max_size=1))
    def retire(self, sessions: set[int]) -> None:
        self.shard.retire(sessions)
        self.plain.retire(sessions)

    @precondition(lambda self: len(self.plain.retired) > 1)
    @rule()
    def start_again(self) -> None:
        self.teardown()
        self.shard, self.plain = service(), PlainShard()

    @rule(sessions=st.sets(SESSIONS))
    def live(self, sessions: set[int]) -> None:
        self.shard.sessions_live(sessions)
        self.plain.live = sessions

    @rule(session=SESSIONS, wrong=st.sampled_from([(2, 2, 7), (1, 3, 7), (1, 2, 6), (1, 2, 8)]))
    def mean_somebody_else(self, session: int, wrong: tuple[int, int, int]) -> None:
        number = self.number(session, 1)
        assert Address(1, 2, INCARNATION) == self.shard.address
        frame = messages.content(Address(*wrong), session, number, [1], b"")
        answer = Talk(self.shard, session).ask(frame)
        assert answer.kind is Kind.FENCED and not answer.is_session_over

    @rule(session=SESSIONS, records=RECORDS, cut=st.integers(1, 23))
    def malformed(self, session: int, records: list[Record], cut: int) -> None:
        number, whole = self.number(session, 1), delta([*records, Record(CLEAR_LANE, 1)])
        for frame in (
            messages.delta(self.shard.address, session, number, whole[:-cut]),
            messages.content(self.shard.address, session, number, [1], whole[:-cut]),
            messages.content(self.shard.address, session, number, [65_535], b""),
            messages.delta(self.shard.address, session, number, struct.pack("<IQQI", 9, 0, 0, 0)),
        ):
            answer = Talk(self.shard, session).ask(frame)
            assert answer.kind is (Kind.FENCED if session in self.plain.retired else Kind.REFUSED)

    @invariant()
    def content_is_that_of_the_plain_one(self) -> None:
        assert holders(self.shard) == self.plain.holders(KEYS)

    @invariant()
    def report_is_that_of_the_plain_one(self) -> None:
        report = self.shard.report()
        loaded = {number for number, one in self.plain.sessions.items() if one.state == LOADED}
        assert set(report.loaded) == loaded
        have = {number: one.have for number, one in self.plain.sessions.items()}
        assert {number: report.applied.get(number, 0) for number in have} == have
        assert self.shard.is_whole == report.replica.whole == self.plain.is_whole

    def teardown(self) -> None:
        self.shard.close()


TestShard = pytest.mark.slow(ShardStateMachine.TestCase)
TestShard.settings = settings(deadline=None, max_examples=examples(200), stateful_step_count=40)
