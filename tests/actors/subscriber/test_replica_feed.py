"""One replica's traffic, message by message."""

from __future__ import annotations

import struct

import pytest

from kvatlas.actors.link import messages
from kvatlas.actors.link.messages import Address, Kind, Message, content_of, decode_message
from kvatlas.actors.subscriber.records import split_records
from kvatlas.actors.subscriber.replica_feed import FeedLimits, Phase, ReplicaFeed
from kvatlas.index._native import Table, route
from kvatlas.index.errors import ConfigError

ADDRESS = Address(3, 1, 9)
SESSION = 7
LIMITS = FeedLimits(gathered_bytes_max=1_000, message_bytes_max=300, retry_s_min=1.0, retry_s_max=4.0)


def record(lane: int, *keys: int) -> bytes:
    return struct.pack("<BBHIIIQ", 1, 1, 0, len(keys), lane, 0, keys[0]) + struct.pack(
        f"<{len(keys)}Q", *keys
    )


class Talk:
    """A feed, its clock, and answers by hand."""

    def __init__(self, limits: FeedLimits = LIMITS) -> None:
        self.feed = ReplicaFeed(ADDRESS, SESSION, limits)
        self.now_s = 0.0
        self.mark = 0

    def next(self) -> Message | None:
        frame = self.feed.next_frame(self.now_s)
        return decode_message(frame) if frame is not None else None

    def sent(self) -> Message:
        message = self.next()
        assert message is not None
        return message

    def applied(self, number: int) -> None:
        self.feed.answered(messages.applied(_asked(), number), self.now_s)

    def resync(self, number: int) -> None:
        self.feed.answered(messages.resync(_asked(), number), self.now_s)

    def refused(self) -> None:
        self.feed.answered(messages.refused("why", _asked()), self.now_s)

    def put(self, records: bytes) -> None:
        self.mark += 1
        self.feed.put(records, self.mark)

    def load(self, *units: tuple[tuple[int, ...], bytes]) -> None:
        self.feed.begin_load()
        for lanes, records in units:
            self.feed.put_content(lanes, records)
        self.feed.end_load()

    def fed(self) -> Talk:
        """Loaded with nothing."""
        assert self.sent().kind is Kind.HELLO
        self.resync(0)
        self.load()
        message = self.sent()
        assert (message.kind, message.number, message.is_first, message.is_last) == (
            Kind.CONTENT,
            1,
            True,
            True,
        )
        self.applied(1)
        return self


def _asked() -> Message:
    return Message(Kind.HELLO, ADDRESS, SESSION, 0, 0, memoryview(b""))


def test_new_replica_is_asked_then_loaded_then_told_what_came_meanwhile() -> None:
    talk = Talk()
    assert talk.sent().kind is Kind.HELLO
    assert talk.next() is None
    talk.resync(0)
    assert talk.feed.wants_content
    talk.load(((5,), record(5, 1, 2)), ((6, 7), record(6, 3)))
    talk.put(record(5, 4))
    message = talk.sent()
    assert message.is_first and message.is_last
    lanes, records = content_of(message)
    assert (lanes, bytes(records)) == ([5, 6, 7], record(5, 1, 2) + record(6, 3))
    talk.put(record(6, 8))
    talk.applied(1)
    assert talk.feed.phase is Phase.FED
    assert not talk.feed.is_loaded
    message = talk.sent()
    assert (message.kind, message.number) == (Kind.DELTA, 2)
    assert bytes(message.body) == record(5, 4) + record(6, 8)
    talk.applied(2)
    assert talk.feed.is_loaded
    assert talk.feed.delivered == talk.mark


def test_changes_between_parts_stay_between_them() -> None:
    talk = Talk()
    talk.sent()
    talk.resync(4)
    talk.feed.begin_load()
    talk.feed.put_content((5,), record(5, 1))
    talk.put(record(5, 2))
    talk.feed.put_content((6,), record(6, 3))
    talk.feed.end_load()
    kinds = []
    for number in (5, 6, 7):
        message = talk.sent()
        kinds.append((message.kind, message.number, message.is_first, message.is_last))
        talk.applied(number)
    assert kinds == [
        (Kind.CONTENT, 5, True, False),
        (Kind.DELTA, 6, False, False),
        (Kind.CONTENT, 7, False, True),
    ]
    assert talk.feed.is_loaded


def test_one_message_is_in_flight_and_the_next_takes_all_that_came() -> None:
    talk = Talk().fed()
    talk.put(record(5, 1))
    assert talk.sent().number == 2
    talk.put(record(5, 2))
    talk.put(record(5, 3))
    assert talk.next() is None
    talk.applied(2)
    assert bytes(talk.sent().body) == record(5, 2) + record(5, 3)


def test_message_without_answer_is_sent_again_when_it_had_not_arrived() -> None:
    talk = Talk().fed()
    talk.put(record(5, 1))
    first = talk.sent()
    talk.feed.failed(talk.now_s)
    assert talk.next() is None
    talk.now_s = talk.feed.wakes_at_s
    assert talk.sent().kind is Kind.HELLO
    talk.applied(1)
    again = talk.sent()
    assert (again.number, bytes(again.body)) == (first.number, bytes(first.body))


def test_message_without_answer_is_not_sent_again_when_it_had_arrived() -> None:
    talk = Talk().fed()
    talk.put(record(5, 1))
    talk.sent()
    talk.feed.failed(talk.now_s)
    talk.now_s = talk.feed.wakes_at_s
    talk.sent()
    talk.applied(2)
    assert talk.next() is None
    assert talk.feed.delivered == talk.mark
    talk.put(record(5, 2))
    assert talk.sent().number == 3


@pytest.mark.parametrize("have", [0, 1, 5, 9])
def test_replica_that_has_another_number_is_loaded_anew_with_a_higher_one(have: int) -> None:
    talk = Talk().fed()
    for number in (2, 3):
        talk.put(record(5, number))
        talk.sent()
        talk.applied(number)
    talk.put(record(5, 4))
    talk.sent()
    talk.feed.failed(talk.now_s)
    talk.now_s = talk.feed.wakes_at_s
    talk.sent()
    talk.resync(have)
    assert talk.feed.wants_content
    talk.load()
    assert talk.sent().number == max(have, 4) + 1


def test_overflow_drops_what_waits_and_loads_anew() -> None:
    talk = Talk().fed()
    talk.put(record(5, *range(100)))
    talk.put(record(5, *range(100)))
    assert talk.feed.phase is Phase.NEW
    assert talk.feed.queued_bytes == 0
    assert talk.feed.counts["overflows"] == 1
    assert talk.feed.wants_content


def test_overflow_with_a_message_in_flight_waits_for_its_answer() -> None:
    talk = Talk().fed()
    talk.put(record(5, 1))
    talk.sent()
    talk.put(record(5, *range(200)))
    assert not talk.feed.wants_content
    talk.applied(2)
    assert talk.feed.wants_content
    assert not talk.feed.is_loaded


def test_refused_message_is_sent_again_with_growing_pauses_then_all_is_loaded_anew() -> None:
    talk = Talk().fed()
    talk.put(record(5, 1))
    pauses = []
    while not talk.feed.wants_content:
        assert talk.sent().number == 2
        talk.refused()
        pauses.append(talk.feed.wakes_at_s - talk.now_s)
        talk.now_s = talk.feed.wakes_at_s
        assert talk.sent().kind is Kind.HELLO
        talk.applied(1)
    assert pauses == [2.0, 4.0, 4.0, 4.0, 4.0]
    assert talk.feed.counts["refused"] == 5


def test_resync_in_answer_to_a_change_loads_anew() -> None:
    talk = Talk().fed()
    talk.put(record(5, 1))
    talk.sent()
    talk.resync(1)
    assert talk.feed.wants_content
    talk.load(((5,), record(5, 1)))
    message = talk.sent()
    assert (message.kind, message.number, message.is_first) == (Kind.CONTENT, 3, True)


def test_load_without_an_answer_begins_anew_and_holds_up_nobody() -> None:
    talk = Talk()
    talk.sent()
    talk.resync(0)
    talk.feed.begin_load()
    talk.feed.put_content((5,), record(5, 1))
    talk.sent()
    talk.feed.failed(talk.now_s)
    assert talk.feed.phase is Phase.NEW
    assert talk.feed.queued_bytes == 0
    talk.now_s = talk.feed.wakes_at_s
    assert talk.sent().kind is Kind.HELLO
    talk.resync(1)
    assert talk.feed.wants_content
    talk.load()
    assert talk.sent().number == 2


@pytest.mark.parametrize("field", FeedLimits.__struct_fields__)
@pytest.mark.parametrize("bad", [0, -1, True, "1", None])
def test_bad_limit_is_refused_with_its_name(field: str, bad: object) -> None:
    with pytest.raises(ConfigError, match=f"{field}: expected"):
        FeedLimits(**{field: bad})  # type: ignore[arg-type]


def test_pauses_grow_up_to_a_bound_and_fall_back_after_an_answer() -> None:
    talk = Talk()
    pauses = []
    for _ in range(4):
        assert talk.sent().kind is Kind.HELLO
        talk.feed.failed(talk.now_s)
        pauses.append(talk.feed.wakes_at_s - talk.now_s)
        talk.now_s = talk.feed.wakes_at_s
    assert pauses == [1.0, 2.0, 4.0, 4.0]
    talk.sent()
    talk.resync(0)
    talk.load()
    talk.sent()
    talk.feed.failed(talk.now_s)
    assert talk.feed.wakes_at_s - talk.now_s == 1.0


def test_session_that_is_over_sends_nothing_more() -> None:
    talk = Talk().fed()
    talk.put(record(5, 1))
    talk.sent()
    talk.feed.answered(messages.fenced(_asked(), "retired", session_over=True), talk.now_s)
    assert talk.feed.phase is Phase.OVER
    talk.now_s += 100
    talk.put(record(5, 2))
    assert talk.next() is None


def test_another_process_at_the_address_is_asked_again_later_and_never_written_to() -> None:
    talk = Talk().fed()
    talk.put(record(5, 1))
    talk.sent()
    talk.feed.answered(messages.fenced(_asked(), "not me", session_over=False), talk.now_s)
    assert not talk.feed.takes
    assert talk.next() is None
    talk.now_s = talk.feed.wakes_at_s
    assert talk.sent().kind is Kind.HELLO


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"garbage" * 9,
        messages.applied(Message(Kind.HELLO, Address(3, 1, 8), SESSION, 0, 0, memoryview(b"")), 2),
        messages.applied(Message(Kind.HELLO, ADDRESS, SESSION - 1, 0, 0, memoryview(b"")), 2),
        messages.applied(_asked(), 1),
        messages.applied(_asked(), 3),
        messages.hello(ADDRESS, SESSION),
    ],
)
def test_answer_that_does_not_fit_is_counted_and_asked_about(reply: bytes) -> None:
    talk = Talk().fed()
    talk.put(record(5, 1))
    talk.sent()
    talk.feed.answered(reply, talk.now_s)
    assert talk.feed.counts["unreadable"] == 1
    assert talk.feed.phase is Phase.FED
    assert talk.feed.delivered < talk.mark
    talk.now_s = talk.feed.wakes_at_s
    assert talk.sent().kind is Kind.HELLO


def test_lane_larger_than_a_message_goes_on_in_parts_of_its_own() -> None:
    talk = Talk()
    talk.sent()
    talk.resync(0)
    records = b"".join(record(5, *range(at, at + 20)) for at in range(0, 80, 20))
    talk.load(((4,), record(4, 1)), ((5,), records), ((6,), record(6, 1)))
    sent = []
    for number in range(1, 10):
        message = talk.next()
        if message is None:
            break
        sent.append(message)
        talk.applied(number)
    parts = [content_of(one) for one in sent]
    assert [lanes for lanes, _ in parts] == [[4, 5], [], [], [], [6]]
    assert b"".join(bytes(body) for _, body in parts) == record(4, 1) + records + record(6, 1)
    assert sent[0].is_first and sent[-1].is_last
    assert all(len(body) <= LIMITS.message_bytes_max for _, body in parts)
    assert talk.feed.is_loaded


def test_content_beyond_the_bound_is_sent_while_whoever_loads_waits() -> None:
    talk = Talk()
    talk.sent()
    talk.resync(0)
    talk.load(*(((lane,), record(lane, *range(30))) for lane in range(20)))
    assert talk.feed.queued_bytes > LIMITS.gathered_bytes_max
    number = 0
    while talk.next() is not None:
        number += 1
        talk.applied(number)
    assert talk.feed.is_loaded
    assert talk.feed.queued_bytes == 0


def test_records_are_cut_only_where_one_ends() -> None:
    one = record(1, 1, 2, 3)
    assert split_records(b"", 10) == [b""]
    assert split_records(one * 3, 2 * len(one)) == [one * 2, one]
    assert split_records(one * 3, 1) == [one] * 3
    table = Table(4 << 20)
    for piece in split_records(b"".join(record(lane, *range(lane, 60)) for lane in range(1, 40)), 1_000):
        table.apply(piece)
        assert route(piece, 1) == [piece]
