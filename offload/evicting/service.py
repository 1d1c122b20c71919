"""The service behind `kvatlas evict`: an evictor for each of several stores, supervised."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from kvatlas.offload.capacity.notices import RemovalNotices
from kvatlas.offload.events.store_events import StoreEventsStatistics
from kvatlas.offload.evicting.announcing import Announcing
from kvatlas.offload.evicting.evictor import Evictor, EvictorStatistics
from kvatlas.offload.evicting.settings import EvictSettings, StoreToEvict
from kvatlas.offload.evicting.supervised import PartState, SupervisedPart

_STOP_S = 10.0

_log = logging.getLogger(__name__)


class StoreState(msgspec.Struct, frozen=True, kw_only=True):
    """How one store's evictor is."""

    root: str
    parts: list[PartState]
    evictor: EvictorStatistics
    announced: dict[str, StoreEventsStatistics]
    """By model."""
    unannounced: int
    """Removed keys of models without a socket: engines were left notices."""
    notices_dropped: int
    """Keys of notices that nobody took for long."""


class EvictService:
    """Evicts from its stores, from `start` to `stop`. Any thread.

    Raises StoreError, ConfigError or InputError where a store's sockets cannot be opened.
    """

    def __init__(self, settings: EvictSettings) -> None:
        self._stores: list[_EvictedStore] = []
        try:
            for one in settings.stores:
                self._stores.append(_EvictedStore(one, settings))
        except Exception:
            for made in self._stores:
                made.close()
            raise

    def start(self) -> None:
        for one in self._stores:
            for part in one.parts:
                part.start()

    def stop(self) -> bool:
        """Whether all have ended and given their leases back; a hanging file system may keep one."""
        for one in self._stores:
            one.evictor.stop()
        deadline_s = time.monotonic() + _STOP_S
        ended = [
            part.stop(max(deadline_s - time.monotonic(), 0)) for one in self._stores for part in one.parts
        ]
        for one in self._stores:
            one.close()
        return all(ended)

    def states(self) -> list[StoreState]:
        return [one.state() for one in self._stores]

    @property
    def endpoints(self) -> dict[str, dict[str, tuple[str, str | None]]]:
        """By root and model: of events, and of replays."""
        return {one.root: one.endpoints for one in self._stores}

    @property
    def is_healthy(self) -> bool:
        return all(part.state().is_healthy for one in self._stores for part in one.parts)


class _EvictedStore:
    """One store: its evictor, its announcers, and the parts that drive them."""

    def __init__(self, store: StoreToEvict, settings: EvictSettings) -> None:
        self.root = store.root
        self._settings = settings
        self._notices = RemovalNotices(Path(store.root))
        self._announcing = Announcing(store) if store.announce else None
        self._period_s = store.limits.period_s
        self._before: EvictorStatistics | None = None
        self.evictor = Evictor(
            Path(store.root),
            store.limits,
            self._removed,
            threads=store.threads,
            candidates_max=store.candidates_max,
        )
        self.parts = [self._evicting()]
        if self._announcing is not None:
            self.parts.append(self._inventories(self._announcing))

    def state(self) -> StoreState:
        announcing = self._announcing
        return StoreState(
            root=self.root,
            parts=[part.state() for part in self.parts],
            evictor=self.evictor.statistics(),
            announced={} if announcing is None else announcing.statistics(),
            unannounced=0 if announcing is None else announcing.unannounced,
            notices_dropped=self._notices.dropped,
        )

    @property
    def endpoints(self) -> dict[str, tuple[str, str | None]]:
        return {} if self._announcing is None else self._announcing.endpoints

    def close(self) -> None:
        if self._announcing is not None:
            self._announcing.close()

    def _evicting(self) -> SupervisedPart:
        return SupervisedPart(
            f"evict {self.root}",
            self._step,
            progress_s=lambda: self.evictor.progress_s,
            hung_s=self._settings.hung_s,
            retry_s_max=self._settings.retry_s_max,
            end=self.evictor.close,
        )

    def _inventories(self, announcing: Announcing) -> SupervisedPart:
        return SupervisedPart(
            f"announce {self.root}",
            announcing.tell_all,
            progress_s=lambda: announcing.progress_s,
            hung_s=self._settings.hung_s,
            retry_s_max=self._settings.retry_s_max,
        )

    def _step(self) -> float:
        self.evictor.step()
        self._say(self.evictor.statistics())
        return self._period_s

    def _removed(self, space: str, keys: Sequence[bytes]) -> None:
        if self._announcing is not None:
            self._announcing.removed(space, keys)
        self._notices.leave(space, keys)  # engines forget them sooner, and announce them on their own streams

    def _say(self, now: EvictorStatistics) -> None:
        before, self._before = self._before, now
        if before is None or now.is_evicting != before.is_evicting:
            _log.info("evicts" if now.is_evicting else "another evicts", extra={"store": self.root})
        evicted_bytes = 0 if before is None else before.evicted_bytes
        if now.evicted_bytes > evicted_bytes:
            deleted = 0 if before is None else before.counts.get("deleted", 0)
            said = {
                "store": self.root,
                "bytes": now.evicted_bytes - evicted_bytes,
                "files": now.counts.get("deleted", 0) - deleted,
                "used_bytes": now.used_bytes,
                "size_bytes": now.size_bytes,
            }
            _log.info("evicted", extra=said)
