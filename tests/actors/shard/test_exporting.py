"""Exports of one shard, by frames: what it held when it was asked, in sections, while somebody asks."""

from __future__ import annotations

from collections import Counter

import pytest

from kvatlas.actors.link import messages
from kvatlas.actors.link.messages import Address, Kind, Message, decode_message
from kvatlas.actors.shard import exporting
from kvatlas.actors.shard.exporting import EXPORTS_MAX, IDLE_S_MAX, Exports
from kvatlas.actors.shard.service import ShardService
from kvatlas.index._native import Table, deltas_of
from kvatlas.index.errors import InputError
from tests.actors.shard.shard_rig import KEYS, Talk, adds, array, holders, service
from tests.models.table import delta


def asked(frame: bytes) -> Message:
    return decode_message(frame)


class Asker:
    """Asks one service for one export."""

    def __init__(self, shard: ShardService, number: int = 5) -> None:
        self.shard, self.number = shard, number

    def begin(self) -> Message:
        return self._ask(messages.begin_export(self.shard.address, self.number))

    def section(self, section: int) -> Message:
        return self._ask(messages.export_section(self.shard.address, self.number, section))

    def end(self) -> Message:
        return self._ask(messages.end_export(self.shard.address, self.number))

    def _ask(self, frame: bytes) -> Message:
        return decode_message(self.shard.handle(frame))


def loaded() -> ShardService:
    shard = service()
    assert Talk(shard, 1).content(1, [0, 1], adds(0, *KEYS), adds(1, *KEYS[:5])).kind is Kind.APPLIED
    shard.sessions_live([1])
    return shard


def test_export_is_what_the_shard_held_when_it_began() -> None:
    shard = loaded()
    export = Asker(shard)
    assert messages.totals_of(export.begin()) == (len(KEYS), len(KEYS) + 5)
    before = holders(shard)
    Talk(shard, 1).content(2, [0, 1])
    assert holders(shard) != before
    copy = Table(budget_bytes=4 << 20)
    for records in deltas_of(bytes(export.section(0).body), None, 1):
        copy.apply(records)
    assert [dict(found) for found in copy.lookup(array(KEYS))] == before
    assert not export.section(1).body


def test_answer_that_was_lost_can_be_asked_for_again() -> None:
    export = Asker(loaded())
    assert export.begin() == export.begin()
    assert bytes(export.section(0).body) == bytes(export.section(0).body)
    assert export.section(0).body
    assert not export.section(1).body
    assert not export.section(1).body


def test_section_out_of_turn_is_refused() -> None:
    export = Asker(loaded())
    export.begin()
    refused = export.section(1)
    assert (refused.kind, refused.text) == (Kind.REFUSED, "export: expected section 0, got 1")


def test_export_that_has_ended_is_refused() -> None:
    export = Asker(loaded())
    export.begin()
    assert export.end().kind is export.end().kind is Kind.EXPORTED
    refused = export.section(0)
    assert refused.kind is Kind.REFUSED
    assert refused.text == "export: expected one that stands, 5 was never begun or given up"


def test_exports_beyond_the_bound_are_refused() -> None:
    shard = loaded()
    for number in range(1, EXPORTS_MAX + 1):
        assert Asker(shard, number).begin().kind is Kind.EXPORTED
    refused = Asker(shard, 99).begin()
    assert (refused.kind, refused.text) == (
        Kind.REFUSED,
        "export: expected at most 2 at a time, got one more",
    )
    Asker(shard, 1).end()
    assert Asker(shard, 99).begin().kind is Kind.EXPORTED


def test_export_says_whether_the_shard_was_whole_when_it_began() -> None:
    shard = loaded()
    assert Asker(shard, 1).begin().is_whole
    shard.sessions_live([1, 2])
    assert Asker(shard, 1).section(0).is_whole
    assert not Asker(shard, 2).begin().is_whole


def test_section_without_a_number_is_refused() -> None:
    shard = loaded()
    frame = messages.export_section(shard.address, 5, 0)
    Asker(shard).begin()
    assert decode_message(shard.handle(frame[:-1])).text == "export: expected a number of 4 bytes, got 3"


class TestIdle:
    """With a clock of the test's own."""

    def setup_method(self) -> None:
        self.now_s = 100.0
        self.counts: Counter[str] = Counter()
        table = Table(budget_bytes=4 << 20)
        table.apply(delta([adds(0, *KEYS)]))
        self.exports = Exports(
            table, lambda name: self.counts.update([name]), 1 << 20, clock_s=lambda: self.now_s
        )
        self.to = Address(1, 2, 7)

    def ask(self, frame: bytes) -> bytes:
        return self.exports.answer(asked(frame), whole=True)

    def test_export_that_nobody_asks_for_is_given_up(self) -> None:
        self.ask(messages.begin_export(self.to, 5))
        self.now_s += IDLE_S_MAX + 1
        self.exports.tidy()
        assert (len(self.exports), self.counts["exports_given_up"]) == (0, 1)
        with pytest.raises(InputError, match="5 was never begun or given up"):
            self.ask(messages.export_section(self.to, 5, 0))

    def test_export_that_is_asked_for_again_and_again_stays(self) -> None:
        self.ask(messages.begin_export(self.to, 5))
        for _ in range(5):
            self.now_s += IDLE_S_MAX - 1
            self.ask(messages.export_section(self.to, 5, 0))
        assert len(self.exports) == 1


def test_sections_are_as_small_as_frames_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "_KEYS_MAX", 10)
    export = Asker(loaded())
    export.begin()
    sections = 0
    while export.section(sections).body:
        sections += 1
    assert sections == 4  # 39 keys
