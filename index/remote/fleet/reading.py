"""What a reader of a server's index knows of the fleet just now; kept fresh by its thread."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Protocol

import msgspec

from kvatlas.index.errors import ConfigError, RemoteIndexError
from kvatlas.index.fleet_view import FleetView, degraded_part
from kvatlas.index.reading import PromptReader
from kvatlas.index.remote.fleet.block_sizes import with_size_doubts
from kvatlas.index.remote.fleet.board import Board, Reading
from kvatlas.index.remote.fleet.matching import FetchedIndex, Fetching
from kvatlas.index.remote.fleet.now import Keyed, Now, RemoteReaderStatus
from kvatlas.index.remote.fleet.session_part import SessionPart, decode_part
from kvatlas.index.remote.fleet.settings import SharingSettings
from kvatlas.index.remote.fleet.upkeep import KeptIndex, Upkeep
from kvatlas.index.view import WorkerName, name_of

_LOST = "its writer is not heard any more: what it said last (until it is heard, or another follows the pod)"
_END_S_MAX = 1.0
_log = logging.getLogger(__name__)


class ReadIndex(FetchedIndex, KeptIndex, Protocol):
    """An index in a server that sessions write: `RemoteIndex`."""

    @property
    def version_seen(self) -> int:
        """The newest version of lanes and fleet that came with any answer."""
        ...


class RemoteReading:
    """Keeps `now` fresh. Any thread may call any method; `now` is replaced, never changed."""

    def __init__(
        self,
        board: Board,
        index: ReadIndex,
        keyed: Keyed,
        settings: SharingSettings,
        clock_s: Callable[[], float] = time.monotonic,
        *,
        agree: Callable[[], Keyed],
        is_alone: bool,
    ) -> None:
        """`agree`: how to key, where the server's index has come to be keyed otherwise; raises ConfigError
        where that is not known. `is_alone`: no writer of this process tends the index."""
        self._board = board
        self._index = index
        self._keyed = keyed
        self._settings = settings
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        """One at a time: an older answer never replaces a newer one."""
        self._parts: dict[int, SessionPart] = {}
        self._lost: frozenset[int] = frozenset()
        self._absent: frozenset[int] = frozenset()
        """Sessions without a part: they have just begun."""
        self._unreadable = 0
        self._counts: Counter[str] = Counter()
        self._version: int | None = None
        self._version_seen = index.version_seen
        """With the last match."""
        self._read_s = clock_s() - settings.trust_s
        """When the server last said who there is."""
        self._failed_since_s: float | None = None
        self._says = ""
        self._agree = agree
        self._disagrees = ""
        """Why what is read is keyed otherwise; empty: it is not."""
        self._upkeep = Upkeep(index, touches=is_alone, period_s=settings.refresh_s)
        self._fetching = Fetching(index, self._noticed)
        self.now = self._make(FleetView.of([]))
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._first = threading.Event()
        self._thread = threading.Thread(
            target=_follow,
            args=(weakref.ref(self), self._wake, self._closing),
            name="kvatlas-reader",
            daemon=True,
        )
        weakref.finalize(self, _end, self._closing, self._wake)
        self._thread.start()

    def refresh(self) -> None:
        """Ask the server who there is. Never raises what the server does."""
        with self._asking:
            asked_s = self._clock_s()
            try:
                told = self._board.read(self._version)
                keyed, disagrees = self._keyed_as(told)
            except RemoteIndexError as error:
                self._counts["missed_refreshes"] += 1
                self._noticed(error)
            else:
                with self._lock:
                    self._keyed, self._disagrees = keyed, disagrees
                    self._take(told, asked_s)
                self._noticed(None)
        self._first.set()

    def _keyed_as(self, told: Reading) -> tuple[Keyed, str]:
        """How to key what has been told; and why that is not known. After a flush others may come first."""
        keyed = self._keyed
        if told.sessions is None:
            return keyed, self._disagrees
        if told.fingerprint in ("", keyed.fingerprint):
            return keyed, ""
        self._counts["other_keys"] += 1
        try:
            return self._agree(), ""
        except ConfigError as error:
            return keyed, str(error)

    def wake(self) -> None:
        """Something has changed: ask soon."""
        self._wake.set()

    def wait_first(self, timeout_s: float) -> bool:
        """Whether the server has been asked once, answer or not."""
        return self._first.wait(timeout_s)

    def believed(self) -> PromptReader[FleetView]:
        """Who says what matches are worth, after looking."""
        now = self.now
        return now.reader if self.is_trusted else now.distrusted

    @property
    def is_trusted(self) -> bool:
        is_heard = self._failed_since_s is None and self.age_s <= self._settings.trust_s
        return is_heard and not self._disagrees

    @property
    def age_s(self) -> float:
        return self._clock_s() - self._read_s

    def status(self) -> RemoteReaderStatus:
        with self._lock:
            since_s, now = self._failed_since_s, self.now
            silent_s = 0.0 if since_s is None else self._clock_s() - since_s
            says = f"index server not reached for {silent_s:.1f} s: {self._says}"
            sessions = {n: _LOST if n in self._lost else part.says for n, part in self._parts.items()}
            return RemoteReaderStatus(
                is_reached=since_s is None,
                is_trusted=self.is_trusted,
                says=self._disagrees if since_s is None else says,
                age_s=self.age_s,
                sessions=sessions,
                n_workers=len(now.fleet.names),
                is_whole=self._is_whole,
                counts={**self._counts, "missed_upkeep": self._upkeep.missed},
                server=self._upkeep.server,
            )

    def close(self) -> None:
        """Stop following. Twice is fine."""
        _end(self._closing, self._wake)
        if self._thread is not threading.current_thread():
            self._thread.join(_END_S_MAX)

    # By its thread, and whoever has asked.

    def pause_s(self) -> float:
        return self._settings.refresh_s

    def keep_up(self) -> None:
        self._upkeep.step(self._clock_s())

    def _noticed(self, error: RemoteIndexError | None) -> None:
        if error is None:
            self._failed_since_s = None
            seen = self._index.version_seen
            is_news = seen != self._version_seen  # else it may be older than what was read since
            self._version_seen = seen
            if is_news and seen != self._version:
                self._wake.set()
        else:
            self._counts["failed_fetches"] += 1
            self._says = str(error)
            if self._failed_since_s is None:
                self._failed_since_s = self._clock_s()
                self._wake.set()

    def _take(self, told: Reading, asked_s: float) -> None:
        self._read_s = asked_s
        self._counts["refreshes"] += 1
        if told.sessions is None and told.lost == self._lost:
            return
        self._lost = told.lost
        if told.sessions is not None:
            self._read_parts(told)
            self._absent = told.sessions - told.parts.keys() - told.lost
        self._version = told.version
        self.now = self._make(self._put_together())

    def _read_parts(self, told: Reading) -> None:
        parts, self._unreadable = {}, 0
        for session, data in sorted(told.parts.items()):
            try:
                parts[session] = decode_part(data)
            except RemoteIndexError as error:
                self._unreadable += 1
                self._counts["unreadable_parts"] += 1
                _log.warning("session %d: %s", session, error)
        self._parts = with_size_doubts(parts)

    def _put_together(self) -> FleetView:
        """Later sessions after earlier ones: where two speak of the same worker, the later is believed."""
        later: dict[WorkerName, int] = {}
        for session, at in self._parts.items():
            later.update((name_of(worker), session) for worker in at.part.workers)
        parts = []
        for session, at in self._parts.items():
            workers = tuple(worker for worker in at.part.workers if later[name_of(worker)] == session)
            part = msgspec.structs.replace(at.part, workers=workers)
            parts.append(degraded_part(part, _LOST) if session in self._lost else part)
        keyed = self._keyed
        return FleetView.of(
            parts, algorithm=keyed.algorithm, hash_seed=keyed.hash_seed, previous=self.now.fleet
        )

    @property
    def _is_whole(self) -> bool:
        # A server without any writer may have been emptied: nobody vouches that nothing is held.
        told = bool(self._parts) and all(part.is_whole for part in self._parts.values())
        return (
            told
            and not self._disagrees
            and not (self._lost or self._absent or self._unreadable)
            and self._version is not None
        )

    def _make(self, fleet: FleetView) -> Now:
        return Now.of(fleet, self._fetching, self._keyed, is_whole=self._is_whole)


def _follow(
    reading: weakref.ReferenceType[RemoteReading], wake: threading.Event, closing: threading.Event
) -> None:
    while not closing.is_set():
        wake.clear()
        at = reading()
        if at is None:
            return
        at.refresh()
        at.keep_up()
        pause_s = at.pause_s()
        del at
        closing.wait(0.005)  # at most 200 questions a second, however fast the version rises
        wake.wait(pause_s)


def _end(closing: threading.Event, wake: threading.Event) -> None:
    closing.set()
    wake.set()
