"""The way of changes from mirrors to an index that llm-d keeps, or reads.

As `RemoteWriter`, without what llm-d's format has no place for: sessions, parts, changes of many blocks at
one instant. A server that forgot everything is noticed by a mark that is missing, within a second.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

from kvatlas.index.errors import RemoteIndexError
from kvatlas.index.remote.connection.commands import Command
from kvatlas.index.remote.connection.connection import RemoteConnection
from kvatlas.index.remote.connection.failures import raise_first
from kvatlas.index.remote.fleet.settings import SharingSettings
from kvatlas.index.remote.llmd.lane_names import LaneNames, pod_identifier
from kvatlas.index.remote.llmd.llmd_index import LlmdIndex
from kvatlas.ingest.fleet_mirror import Content, FleetMirror
from kvatlas.ingest.llmd_engine_keys import EngineKeyTelling
from kvatlas.ingest.remote_work import RemoteWork
from kvatlas.ingest.remote_writer import RemoteWriterStatus

_RETRY_S_MIN = 0.05
_LOOK_S = 1.0
_log = logging.getLogger(__name__)


class LlmdWriter:
    """Writes what a fleet's mirrors hold in llm-d's format. One thread drives it; `status` from any."""

    def __init__(
        self,
        mirror: FleetMirror,
        index: LlmdIndex,
        connection: RemoteConnection,
        settings: SharingSettings,
        clock_s: Callable[[], float] = time.monotonic,
        *,
        engine_keys: EngineKeyTelling | None = None,
    ) -> None:
        """`engine_keys`: None where nobody wants to know them."""
        self.failure: BaseException | None = None
        """What ended the thread."""
        self._mirror = mirror
        self._index = index
        self._connection = connection
        self._settings = settings
        self._clock_s = clock_s
        self._mark = f"kvatlas:writer:{secrets.token_hex(8)}".encode()
        self._engine_keys = engine_keys
        self._work = RemoteWork(settings.batch_bytes_max)
        self._contents: Iterator[Content] | None = None
        self._content: Content | None = None
        self._is_loaded = False
        self._is_idle = False
        self._lost = mirror.lost
        self._named_version = -1
        self._retry_at_s = self._looked_s = 0.0
        self._failures = 0
        self._down_since_s: float | None = None
        self._says = ""
        self._counts: Counter[str] = Counter()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kvatlas-llmd-writer", daemon=True)

    def start(self) -> LlmdWriter:
        self._thread.start()
        return self

    def stop(self) -> None:
        """Write no more, and take what was written away, where the server is reached. Twice is fine."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._mirror.changed.set()
        if self._thread.ident is not None:
            self._thread.join()
        try:
            self._index.remove_lanes(self._lanes())
            self._connection.run([Command(self._mark, ("DEL", self._mark))])
        except RemoteIndexError as error:
            _log.warning("what this writer has told stays in the index server: %s", error)

    @property
    def is_quiet(self) -> bool:
        """All that the mirrors hold is there."""
        return self._is_loaded and self._is_idle and not self._mirror.changed.is_set()

    def status(self) -> RemoteWriterStatus:
        since_s, keys = self._down_since_s, self._engine_keys
        told = {} if keys is None else {"engine_keys_wrong_type": keys.wrong_type}
        return RemoteWriterStatus(
            phase="fed" if self._is_loaded else "loading",
            session=0,
            is_reached=since_s is None,
            down_s=0.0 if since_s is None else max(0.0, self._clock_s() - since_s),
            says=self._says,
            waiting_bytes=self._work.bytes,
            counts={**self._counts, **told},
        )

    def step(self) -> float:
        """Do all that is due; returns after how many seconds something may be due again."""
        self._is_idle = False
        self._mirror.changed.clear()
        now_s = self._clock_s()
        if now_s < self._retry_at_s:
            return self._retry_at_s - now_s
        try:
            self._look(now_s)
            is_more = self._advance()
        except RemoteIndexError as error:
            return self._failed(error, now_s)
        self._failures, self._down_since_s, self._says = 0, None, ""
        self._is_idle = not is_more
        return 0.0 if is_more else _LOOK_S

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                pause_s = self.step()
                self._stopping.wait(self._settings.gather_s)
                self._mirror.changed.wait(max(0.0, pause_s - self._settings.gather_s))
        except BaseException as error:  # for the atlas: in a thread it would only be printed
            _log.exception("the thread that writes into the index server has ended")
            self.failure = error

    def _look(self, now_s: float) -> None:
        """Whether the server still has what it was told."""
        if self._is_loaded and now_s < self._looked_s + _LOOK_S:
            return
        (mark,) = self._connection.run_or_raise([Command(self._mark, ("GET", self._mark))])
        self._looked_s = now_s
        if mark is None and (self._is_loaded or self._contents is None):
            self._reload()

    def _reload(self) -> None:
        self._is_loaded, self._content = False, None
        self._work.clear()
        self._contents, self._lost = self._mirror.content(), self._mirror.lost
        if self._engine_keys is not None:
            self._engine_keys.forget()

    def _advance(self) -> bool:
        if self._mirror.lost != self._lost:
            self._counts["lost"] += 1
            self._reload()
        if not self._work and self._content is None:
            if self._engine_keys is not None:
                with self._mirror.lock:
                    self._engine_keys.take()
            self._gather()
        self._name()
        while self._work:
            self._index.apply([self._work.first])
            self._work.done()
            self._counts["batches"] += 1
        if self._content is not None:
            self._index.replace(self._content.lanes, self._content.records)
            self._content = None
        if self._contents is not None:
            return True
        return self._engine_keys is not None and self._engine_keys.write()

    def _gather(self) -> None:
        if self._contents is None:
            self._work.put(self._mirror.take())
            return
        self._content = next(self._contents, None)
        if self._content is not None:
            self._work.put(self._content.before)
            return
        raise_first(self._connection.run([Command(self._mark, ("SET", self._mark, "1"))]), "mark")
        self._contents, self._is_loaded = None, True
        self._counts["loads"] += 1

    def _failed(self, error: RemoteIndexError, now_s: float) -> float:
        self._counts["failures"] += 1
        self._says = str(error)
        self._down_since_s = self._down_since_s or now_s
        pause_s = min(self._settings.retry_s_max, _RETRY_S_MIN * 2.0 ** min(self._failures, 16))
        self._failures += 1
        self._retry_at_s = self._clock_s() + pause_s
        return pause_s

    # Names of lanes.

    def _name(self) -> None:
        """After taking: every lane that a record names has come into the fleet before."""
        version = self._mirror.part_version
        if version == self._named_version:
            return
        names = self._index.names
        with self._mirror.lock:
            for worker in self._mirror.fleet.workers():
                for number, group in worker.groups.items():
                    _put(names, group.lane, pod_identifier(worker.pod, worker.rank), number or None)
            for model in self._mirror.fleet.models.values():
                for store in model.stores.values():
                    names.leave_out(store.lane)
        self._named_version = version

    def _lanes(self) -> list[int]:
        with self._mirror.lock:
            workers = list(self._mirror.fleet.workers())
            return [group.lane for worker in workers for group in worker.groups.values()]


def _put(names: LaneNames, lane: int, pod: str, group: int | None) -> None:
    """A lane is used again a minute after it was given back: its name is another's then."""
    try:
        names.put(lane, pod, group)
    except ValueError:
        names.drop(lane)
        names.put(lane, pod, group)
