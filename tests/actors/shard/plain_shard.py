"""A shard as plain dicts: what docs/shard_protocol.md says, with nothing else in mind."""

from __future__ import annotations

from collections.abc import Sequence

from kvatlas.actors.link.messages import Kind
from tests.models.table import ADD, CLEAR_LANE, REMOVE, NaiveTable, Record

NEW, LOADING, LOADED = "new", "loading", "loaded"


class PlainSession:
    def __init__(self) -> None:
        self.have = 0
        self.state = NEW
        self.named: set[int] = set()


class PlainShard:
    """Each method gives the kind of answer that is expected."""

    def __init__(self) -> None:
        self.table = NaiveTable()
        self.sessions: dict[int, PlainSession] = {}
        self.owner: dict[int, int] = {}
        self.retired: set[int] = set()
        self.live: set[int] | None = None

    @property
    def is_whole(self) -> bool:
        return self.live is not None and self.live <= {
            number for number, session in self.sessions.items() if session.state == LOADED
        }

    def hello(self, number: int) -> Kind:
        if number in self.retired:
            return Kind.FENCED
        session = self.sessions.setdefault(number, PlainSession())
        return Kind.APPLIED if session.state == LOADED else Kind.RESYNC

    def delta(self, number: int, n: int, records: Sequence[Record]) -> Kind:
        if number in self.retired:
            return Kind.FENCED
        session = self.sessions.setdefault(number, PlainSession())
        if n <= session.have:
            return Kind.APPLIED
        if n != session.have + 1 or session.state == NEW:
            session.state = NEW
            return Kind.RESYNC
        lanes = {record.lane for record in records}
        if not self._take(number, lanes):
            return Kind.FENCED
        self._apply(records)
        session.have = n
        session.named |= lanes
        return Kind.APPLIED

    def content(
        self, number: int, n: int, lanes: Sequence[int], records: Sequence[Record], first: bool, last: bool
    ) -> Kind:
        if number in self.retired:
            return Kind.FENCED
        found = {record.lane for record in records}
        if lanes and not found <= set(lanes):
            return Kind.REFUSED
        session = self.sessions.setdefault(number, PlainSession())
        if n <= session.have:
            return Kind.APPLIED
        if not first and (n != session.have + 1 or session.state != LOADING):
            session.state = NEW
            return Kind.RESYNC
        if not self._take(number, found | set(lanes)):
            return Kind.FENCED
        if first:
            session.named = set()
        session.state = LOADING
        self._clear(lanes)
        self._apply(records)
        session.named |= found | set(lanes)
        if last:
            self._give_up({lane for lane, owner in self.owner.items() if owner == number} - session.named)
            session.state = LOADED
        session.have = n
        return Kind.APPLIED

    def retire(self, numbers: set[int]) -> None:
        self.retired |= numbers
        for number in numbers & self.sessions.keys():
            del self.sessions[number]
        self._give_up({lane for lane, owner in self.owner.items() if owner in numbers})

    def holders(self, keys: Sequence[int]) -> list[dict[int, int]]:
        return self.table.lookup(keys)

    def _take(self, number: int, lanes: set[int]) -> bool:
        if any(self.owner.get(lane, 0) > number for lane in lanes):
            return False
        self._clear([lane for lane in lanes if self.owner.get(lane, number) != number])
        self.owner.update(dict.fromkeys(lanes, number))
        return True

    def _give_up(self, lanes: set[int]) -> None:
        self._clear(lanes)
        for lane in lanes:
            del self.owner[lane]

    def _clear(self, lanes: Sequence[int] | set[int]) -> None:
        self._apply([Record(CLEAR_LANE, lane) for lane in lanes])

    def _apply(self, records: Sequence[Record]) -> None:
        for record in records:
            assert record.op in (ADD, REMOVE, CLEAR_LANE)
            self.table.apply(record)
