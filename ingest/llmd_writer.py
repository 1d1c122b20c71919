"""The way of changes from mirrors to an index that llm-d keeps, or reads.

As `RemoteWriter`, without what llm-d's format has no place for: sessions, parts, changes of many blocks at
one instant. A server that forgot everything is noticed by a mark that is missing, within a second.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator

from kvatlas.index.errors import RemoteIndexError
from kvatlas.index.remote.connection.commands import Command
from kvatlas.index.remote.connection.connection import RemoteConnection
from kvatlas.index.remote.fleet.settings import SharingSettings
from kvatlas.index.remote.llmd.lane_names import LaneName, pod_identifier
from kvatlas.index.remote.llmd.llmd_index import LlmdIndex
from kvatlas.ingest.back_off import BackOff
from kvatlas.ingest.fleet_mirror import Content, FleetMirror
from kvatlas.ingest.llmd_engine_keys import EngineKeyTelling
from kvatlas.ingest.remote_work import RemoteWork
from kvatlas.ingest.step_thread import StepThread
from kvatlas.ingest.writer_status import RemoteWriterStatus

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
        self._looked_s = 0.0
        self._back_off = BackOff(settings.retry_s_max, clock_s)
        self._says = ""
        self._counts: Counter[str] = Counter()
        self._thread = StepThread(
            "kvatlas-llmd-writer", self.step, mirror.changed, gather_s=settings.gather_s
        )

    def start(self) -> LlmdWriter:
        self._thread.start()
        return self

    def stop(self) -> None:
        """Write no more, and take what was written away, where the server is reached. Twice is fine."""
        if self._thread.is_stopping:
            return
        self._thread.stop()
        try:
            self._index.remove_lanes(self._index.names.lanes())
            self._connection.run([Command(self._mark, ("DEL", self._mark))])
        except RemoteIndexError as error:
            _log.warning("what this writer has told stays in the index server: %s", error)

    @property
    def is_quiet(self) -> bool:
        """All that the mirrors hold is there."""
        return self._is_loaded and self._is_idle and not self._mirror.changed.is_set()

    @property
    def failure(self) -> BaseException | None:
        """What ended the thread."""
        return self._thread.failure

    def status(self) -> RemoteWriterStatus:
        keys = self._engine_keys
        told = {} if keys is None else {"engine_keys_wrong_type": keys.wrong_type}
        return RemoteWriterStatus(
            phase="fed" if self._is_loaded else "loading",
            session=0,
            is_reached=not self._back_off.is_down,
            down_s=self._back_off.down_s,
            says=self._says,
            waiting_bytes=self._work.bytes,
            counts={**self._counts, **told},
        )

    def step(self) -> float:
        """Do all that is due; returns after how many seconds something may be due again."""
        self._is_idle = False
        self._mirror.changed.clear()
        if (wait_s := self._back_off.wait_s) > 0:
            return wait_s
        try:
            self._look()
            is_more = self._advance()
        except RemoteIndexError as error:
            self._counts["failures"] += 1
            self._says = str(error)
            return self._back_off.failed()
        self._back_off.succeeded()
        self._says = ""
        self._is_idle = not is_more
        return 0.0 if is_more else _LOOK_S

    def _look(self) -> None:
        """Whether the server still has what it was told."""
        now_s = self._clock_s()
        if self._is_loaded and now_s < self._looked_s + _LOOK_S:
            return
        (mark,) = self._connection.run_or_raise([Command(self._mark, ("GET", self._mark))])
        if mark is None:
            self._reload()  # first: the mark may be set though its answer is lost
            # Before any content is taken: what the server loses during the load is noticed, too.
            self._connection.run_or_raise([Command(self._mark, ("SET", self._mark, "1"))])
        self._looked_s = now_s

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
        self._contents, self._is_loaded = None, True
        self._counts["loads"] += 1

    # Names of lanes.

    def _name(self) -> None:
        """After taking: every lane that a record names has come into the fleet before.

        A pod that comes back has another lane, and a lane rests and is another pod's then. What was
        written under the name of before goes first: the record that clears it may come too late for that.
        """
        version, names = self._mirror.part_version, self._index.names
        if version == self._named_version:
            return
        wanted = self._wanted_names()
        moved = names.in_the_way(wanted)
        if moved:
            self._index.remove_lanes(moved)
        for lane in moved:
            names.drop(lane)
            names.leave_out(lane)
        for lane, name in wanted.items():
            if name is None:
                names.leave_out(lane)
            else:
                names.put(lane, name.pod, name.group)
        self._named_version = version

    def _wanted_names(self) -> dict[int, LaneName | None]:
        """What the fleet's lanes are to be called; None: llm-d has no stores."""
        wanted: dict[int, LaneName | None] = {}
        with self._mirror.lock:
            for worker in self._mirror.fleet.workers():
                for number, group in worker.groups.items():
                    wanted[group.lane] = LaneName(pod_identifier(worker.pod, worker.rank), number or None)
            for model in self._mirror.fleet.models.values():
                wanted.update((store.lane, None) for store in model.stores.values())
        return wanted
