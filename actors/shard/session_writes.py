"""What sessions write into a shard's table: in order, once, and only into lanes of their own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from kvatlas.actors.link import messages
from kvatlas.actors.link.messages import Message
from kvatlas.actors.shard.sessions import Session, Sessions
from kvatlas.index._native import Table, lanes_of
from kvatlas.index.deltas import clear_lanes
from kvatlas.index.errors import InputError

_LANES_MAX = 65_535


class SessionWrites:
    """Answers HELLO, DELTA and CONTENT. Any thread may call any method.

    Requests of one session take turns, those of different sessions do not wait for each other.
    """

    def __init__(self, table: Table, sessions: Sessions, count: Callable[[str], None]) -> None:
        """`count` is told what was done, by name."""
        self._table = table
        self._sessions = sessions
        self._count = count

    def hello(self, asked: Message, session: Session) -> bytes:
        """Whether the session can go on with deltas, or content is needed."""
        with session.lock:
            if session.is_over:
                return self.fence(asked, "its session is over")
            return (messages.applied if session.is_loaded else messages.resync)(asked, session.have)

    def delta(self, asked: Message, session: Session) -> bytes:
        """Apply what comes next. Raises InputError, and changes nothing, when it is malformed."""
        lanes = lanes_of(asked.body)
        with session.lock:
            if session.is_over:
                return self.fence(asked, "its session is over")
            if asked.number <= session.have:
                return self._repeat(asked, session)
            if asked.number != session.have + 1 or not (session.is_loaded or session.is_loading):
                return self._resync(asked, session)
            self._claim(session, lanes)
            self._table.apply(asked.body)
            session.named.update(lanes if session.is_loading else ())
            session.have = asked.number
            self._count("deltas")
            return messages.applied(asked, session.have)

    def content(self, asked: Message, session: Session) -> bytes:
        """Replace lanes of the session, each part in one stroke; with the last one it is loaded.

        Raises InputError, and changes nothing, when it is malformed.
        """
        lanes, records = messages.content_of(asked)
        found = lanes_of(records)
        _check_lanes(lanes, found)
        with session.lock:
            if session.is_over:
                return self.fence(asked, "its session is over")
            if asked.number <= session.have:
                return self._repeat(asked, session)
            goes_on = asked.number == session.have + 1 and session.is_loading
            if not (asked.is_first or goes_on):
                return self._resync(asked, session)
            self._claim(session, {*lanes, *found})
            if asked.is_first:
                session.begin_load()
            self._load(session, lanes, found, records)
            if asked.is_last:
                self._empty(session, session.lanes - session.named)
                session.end_load()
            session.have = asked.number
            self._count("contents")
            return messages.applied(asked, session.have)

    def retire(self, numbers: Iterable[int]) -> None:
        """These sessions are over: their lanes are emptied."""
        for session in self._sessions.retire(numbers):
            with session.lock:
                session.is_over = True
                self._empty(session, session.lanes.copy())
                self._count("retired")

    def fence(self, asked: Message, why: str) -> bytes:
        """The session must end."""
        self._count("fenced")
        return messages.fenced(asked, f"session {asked.session}: {why}", session_over=True)

    def _load(
        self, session: Session, lanes: Sequence[int], found: Sequence[int], records: memoryview
    ) -> None:
        if lanes:
            self._table.replace(lanes, records)
        elif records:  # a lane that is longer than a message goes on
            self._table.apply(records)
        session.named.update(lanes, found)

    def _claim(self, session: Session, lanes: Collection[int]) -> None:
        """Own the lanes; what earlier sessions had there goes. A later session's lock is taken first."""
        for owner, taken in self._sessions.claim(session, lanes).items():
            with owner.lock:  # it may be writing there just now
                self._clear(taken)
                self._count("lanes_taken")

    def _empty(self, session: Session, lanes: Collection[int]) -> None:
        self._clear(lanes)
        self._sessions.give_up(session, lanes)

    def _clear(self, lanes: Collection[int]) -> None:
        if lanes:
            self._table.apply(clear_lanes(sorted(lanes)))

    def _repeat(self, asked: Message, session: Session) -> bytes:
        self._count("repeats")
        return messages.applied(asked, session.have)

    def _resync(self, asked: Message, session: Session) -> bytes:
        session.lose()
        self._count("resyncs")
        return messages.resync(asked, session.have)


def _check_lanes(lanes: Sequence[int], found: Sequence[int]) -> None:
    if lanes and max(lanes) >= _LANES_MAX:
        raise InputError(f"content: expected lanes below {_LANES_MAX}, got {max(lanes)}")
    if lanes and not set(found) <= set(lanes):
        raise InputError(
            f"content: expected records of its lanes only, got lane {min(set(found) - set(lanes))}"
        )
