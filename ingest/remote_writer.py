"""The way of changes from mirrors to an index in a server that others read, and write beside.

    FleetMirror.take ──> RemoteWork ──> lanes of this session ──> index.apply, one batch at a time
    FleetMirror.content ──> the same way, where the server has nothing of this session, or has lost some
    FleetMirror.part ──> Session.tell, when the blocks that it speaks of are there

    APART ── a session ──> LOADING ── all content is there ──> FED
      ^                     ^   ^                               │
      │                     │   └── resync, records lost ───────┤
      │                     └───── after a while ── SHORT <── memory full: only removals are written
      └── the session is over: its lease ran out, or the server has forgotten everything

While the server is not reached the phase stays, changes gather up to their bound, and the same batch is
written again when it is: records may be repeated in their order. Whatever is lost is loaded anew under
lanes that nobody has used, so that old and new content never mix.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Protocol

from kvatlas.index._native import lanes_of
from kvatlas.index.errors import ConfigError, RemoteIndexError
from kvatlas.index.remote.fleet.board import Board
from kvatlas.index.remote.fleet.session import Session
from kvatlas.index.remote.fleet.session_part import SessionPart
from kvatlas.index.remote.fleet.settings import SharingSettings
from kvatlas.index.remote.resync import ResyncNeeded, SessionOver
from kvatlas.index.view import FleetPart
from kvatlas.ingest.back_off import BackOff
from kvatlas.ingest.fleet_mirror import Content, FleetMirror
from kvatlas.ingest.remote_telling import no_better_than
from kvatlas.ingest.remote_work import RemoteWork
from kvatlas.ingest.step_thread import StepThread
from kvatlas.ingest.writer_status import RemoteWriterStatus

_FULL_RETRY_S_MAX = 300.0
_TEND_S = 1.0
_STEP_S_MAX = 0.1
_LOADING = "what it holds is on its way to the index server"
_SHORT = "the index server's memory is full: not all that it holds is there"
_NO_LANES = "the index has no lanes left for some workers"

_log = logging.getLogger(__name__)


class WritableIndex(Protocol):
    """An index in a server: `RemoteIndex`."""

    def begin(self, session: int) -> None: ...
    def apply(self, deltas: Sequence[bytes]) -> None: ...
    def remove_lanes(self, lanes: Sequence[int]) -> None: ...
    def tend(self) -> None: ...


class Phase(Enum):
    APART = "apart"
    """No session."""
    LOADING = "loading"
    FED = "fed"
    SHORT = "short"
    """The server's memory is full."""


class RemoteWriter:
    """Writes what a fleet's mirrors hold into an index server.

    Thread safety: one thread drives it (`start`, or a test that calls `step`); `status` from any.
    Invariant: a part told was true of all that had arrived by then, or says less.
    """

    def __init__(
        self,
        mirror: FleetMirror,
        index: WritableIndex,
        board: Board,
        settings: SharingSettings | None = None,
        *,
        name: str = "",
        agree: Callable[[], object] = lambda: None,
        told: Callable[[], object] = lambda: None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`name`: for people. `agree`: called before a session begins; raises where others key otherwise.
        `told`: called when readers can see something new of the workers."""
        self.session: Session | None = None
        self.phase = Phase.APART
        self._mirror = mirror
        self._index = index
        self._board = board
        self._settings = settings or SharingSettings()
        self._name = name
        self._agree = agree
        self._told = told
        self._clock_s = clock_s
        self._work = RemoteWork(self._settings.batch_bytes_max)
        self._contents: Iterator[Content] | None = None
        self._stale_lanes: list[int] = []
        """Had by this session, and to be emptied before it loads."""
        self._lost = mirror.lost
        self._told_version = -1
        self._expired: tuple[int, ...] = ()
        self._is_unsound = False
        self._is_idle = False
        self._full_until_s = self._tended_s = 0.0
        self._full_retry_s = self._settings.full_retry_s
        self._back_off = BackOff(self._settings.retry_s_max, clock_s)
        self._says = ""
        self._counts: Counter[str] = Counter()
        self._thread = StepThread(
            "kvatlas-remote-writer", self.step, mirror.changed, gather_s=self._settings.gather_s
        )

    # From any thread.

    def start(self) -> RemoteWriter:
        self._thread.start()
        return self

    def stop(self) -> None:
        """Write no more, end the session and empty its lanes, where the server is reached. Twice is fine."""
        self._thread.stop()
        session, self.session = self.session, None
        if session is not None:
            try:
                session.end()
                self._index.begin(0)  # what is over may not write any more, not even to clean up
                self._bury()
            except RemoteIndexError as error:
                _log.warning("session %d ends by its lease: %s", session.number, error)

    @property
    def failure(self) -> BaseException | None:
        """What ended the thread."""
        return self._thread.failure

    def status(self) -> RemoteWriterStatus:
        session = self.session
        return RemoteWriterStatus(
            phase=self.phase.value,
            session=session.number if session is not None else 0,
            is_reached=not self._back_off.is_down,
            down_s=self._back_off.down_s,
            says=self._says,
            waiting_bytes=self._work.bytes,
            counts=dict(self._counts),
        )

    @property
    def is_quiet(self) -> bool:
        """All that the mirrors hold is there, and readers are told so."""
        is_told = self._told_version == self._mirror.part_version and not self._mirror.changed.is_set()
        return self.phase is Phase.FED and is_told and self._is_idle

    # By the one that drives it.

    def step(self) -> float:
        """Do all that is due; returns after how many seconds something may be due again."""
        self._is_idle = False  # before: what is told from here on is not forgotten
        self._mirror.changed.clear()
        if (wait_s := self._back_off.wait_s) > 0:
            return wait_s
        try:
            return self._advance()
        except SessionOver as error:
            self._counts["sessions_over"] += 1
            self._says = str(error)
            self.session, self.phase = None, Phase.APART
            return 0.0
        except ResyncNeeded as error:
            self._counts["resyncs"] += 1
            self._says = str(error)
            self._reload(is_fresh=True)
            return self._back_off.pause()
        except (RemoteIndexError, ConfigError) as error:
            self._says = str(error)
            if getattr(error, "reason", "") == "full":
                return self._became_full()
            self._counts["failures"] += 1
            return self._back_off.failed()

    def _advance(self) -> float:
        session = self.session or self._begin()
        until_s = self._clock_s() + _STEP_S_MAX
        if self.phase is Phase.SHORT and self._clock_s() >= self._full_until_s:
            self._reload(is_fresh=self._is_unsound)
        while True:
            self._empty_stale(session)
            version = self._mirror.part_version
            part = self._mirror.part() if self._is_to_tell(session, version) else None
            is_more = self._gather()
            self._send(session, until_s)
            if part is not None:
                self._tell(session, part, version)
            if not is_more or self._clock_s() >= until_s:
                break
        self._tend()
        self._back_off.succeeded()
        self._is_idle = not (is_more or self._work)
        if self.phase is Phase.FED:
            self._says = ""
        return 0.0 if is_more or self._work else max(0.0, min(_TEND_S, session.wakes_at_s - self._clock_s()))

    def _begin(self) -> Session:
        self._agree()
        session = Session(self._board, self._settings, self._clock_s)
        self._index.begin(session.number)
        self.session = session
        self._counts["sessions"] += 1
        self._stale_lanes = []
        self._reload(is_fresh=False)
        return session

    def _reload(self, *, is_fresh: bool) -> None:
        """All content from the start; under fresh lanes where what is there may be wrong."""
        self.phase = Phase.LOADING
        self._work.clear()
        self._contents = self._mirror.content()
        self._lost = self._mirror.lost
        self._told_version = -1
        self._is_unsound = False
        if is_fresh and self.session is not None:
            self._stale_lanes += self.session.lanes.renew()

    def _empty_stale(self, session: Session) -> None:
        """Before anything is written under fresh lanes: nobody finds what may be wrong any more."""
        if self._stale_lanes:
            self._index.begin(session.number)
            self._index.remove_lanes(self._stale_lanes)
            self._stale_lanes = []

    def _gather(self) -> bool:
        """Take what is to be written next; whether there is more."""
        if self._mirror.lost != self._lost:
            self._counts["lost"] += 1
            self._reload(is_fresh=True)
            return True
        if self._work:
            return True
        if self._contents is None:
            self._work.put(self._mirror.take())
            return False
        content = next(self._contents, None)
        if content is not None:
            self._work.put([*content.before, content.records])
            return True
        self._contents = None
        return True

    def _send(self, session: Session, until_s: float) -> None:
        while self._work and not self._stale_lanes:
            batch = self._work.first
            session.lanes.want(lanes_of(batch))
            records = session.lanes.records(batch, removals_only=self.phase is Phase.SHORT)
            if records:
                self._index.apply([records])
            self._work.done()
            self._counts["batches"] += 1
            self._counts["batch_bytes"] += len(records)
            if self._clock_s() >= until_s:
                return
        if self.phase is Phase.LOADING and self._contents is None:
            self.phase = Phase.FED
            self._counts["loads"] += 1
            self._told_version = -1
            self._full_retry_s = self._settings.full_retry_s

    # What readers are told.

    def _is_to_tell(self, session: Session, version: int) -> bool:
        return version != self._told_version or self._clock_s() >= session.wakes_at_s

    def _tell(self, session: Session, part: FleetPart, version: int) -> None:
        """`part` was made before the last changes were taken: they hold all that it speaks of."""
        is_there = self.phase is Phase.FED and not self._work
        if self.phase is Phase.FED and not is_there:
            self._expired += session.tell(None)  # more than fits into a step is on its way
            return
        says = "" if is_there else _SHORT if self.phase is Phase.SHORT else _LOADING
        if not is_there:
            part = no_better_than(part, "DEGRADED" if self._is_unsound else "PARTIAL", says)
        elif session.lanes.refused or session.workers.refused:
            says, is_there = _NO_LANES, False
        self._expired += session.tell(SessionPart(name=self._name, is_whole=is_there, says=says, part=part))
        if version != self._told_version:
            self._counts["parts"] += 1
            self._told_version = version
            self._told()

    # What else is due.

    def _tend(self) -> None:
        now_s = self._clock_s()
        if now_s < self._tended_s + _TEND_S:
            return
        self._tended_s = now_s
        for session in dict.fromkeys(self._expired):
            self._counts["buried"] += self._board.end(session)
        self._expired = ()
        self._bury()
        self._index.tend()

    def _bury(self) -> None:
        """Empty the lanes of a session that is over, and give its numbers back."""
        over = self._board.over()
        if over is not None:
            session, lanes = over
            self._index.remove_lanes(lanes)
            self._board.free(session, self._settings.lane_rest_s)

    def _became_full(self) -> float:
        """From now on only what takes away is written: what is there stays true, and is not all."""
        self._counts["full"] += 1
        if self.phase is Phase.SHORT:  # not even that can be written
            self._is_unsound = True
            self._work.clear()
            return self._back_off.pause()
        self._is_unsound = False
        self._contents = None
        self.phase = Phase.SHORT
        self._told_version = -1
        self._full_until_s = self._clock_s() + self._full_retry_s
        self._full_retry_s = min(_FULL_RETRY_S_MAX, 2 * self._full_retry_s)
        return 0.0
