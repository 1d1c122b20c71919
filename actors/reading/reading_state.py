"""What a reader reads just now: workers, and the tables that fit them; kept fresh by its thread."""

from __future__ import annotations

import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

from kvatlas.actors.orders import ClusterView, ReaderSecrets, RouterAt
from kvatlas.actors.reading.fleet_parts import FleetParts, algorithm_of
from kvatlas.actors.reading.follow import FetchView, follow
from kvatlas.actors.reading.reader_status import ReaderStatus, ShardReading
from kvatlas.actors.reading.replicas import Replicas
from kvatlas.actors.reading.settings import ReaderSettings
from kvatlas.actors.reading.shard_sources import ShardSources, TablesIndex
from kvatlas.index.choosing.serving import ServingPod
from kvatlas.index.errors import ClusterError
from kvatlas.index.fleet_view import FleetView
from kvatlas.index.reading import PromptReader

_WAIT_WHILE_DOWN_S = 0.5
_END_S_MAX = 1.0


class Now(NamedTuple):
    """What is read at one moment; its workers and tables fit each other."""

    reader: PromptReader[FleetView]
    distrusted: PromptReader[FleetView]
    """The same, where nothing is vouched for: for views that are too old."""
    sources: ShardSources
    tables: TablesIndex
    serving: Mapping[str, ServingPod]
    """Pods that requests can be sent to."""
    serving_version: int
    subscribers: Mapping[str, str]
    """Who follows a pod."""


class ReadingState:
    """Keeps `now` fresh. Any thread may call any method; `now` is replaced, never changed."""

    def __init__(
        self,
        fetch_view: FetchView,
        secrets: ReaderSecrets,
        replicas: Replicas,
        settings: ReaderSettings,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.now: Now | None = None
        """None until the first view has come."""
        self.is_superseded = False
        """The cluster was started anew under its name: its secrets are others."""
        self.trusted_until_s = 0.0
        """When the view will be too old, unless it is confirmed before."""
        self._secrets = secrets
        self._settings = settings
        self._clock_s = clock_s
        self._replicas = replicas
        self._parts = FleetParts()
        self._counts: Counter[str] = Counter()
        self._said = "it has not been asked yet"
        self._lock = threading.Lock()
        self._is_ready = threading.Event()
        self._closing = threading.Event()
        weakref.finalize(self, _end, self._closing, replicas)
        self._thread = follow(self, fetch_view, self._closing, clock_s)

    def wait_ready(self, timeout_s: float) -> Now:
        """Wait for the first view. Raises ClusterError when none comes in time."""
        self._is_ready.wait(timeout_s)
        now = self.now
        if now is None:
            why = "it is closed" if self._closing.is_set() else self._said
            raise ClusterError(f"cluster: expected a view from its directory within {timeout_s} s: {why}")
        return now

    def replace_stale(self, seen: Now) -> None:
        """A table of `seen` could not be read: choose anew what is read, unless somebody has."""
        with self._lock:
            if self.now is seen and self._replicas.find_stale():
                self._publish()

    # What the following thread calls.

    def since(self) -> int:
        return self._parts.since

    def wait_s(self) -> float:
        """Shorter while something is down that may be up again."""
        if self.now is None:
            return 0.0
        with self._lock:
            has_down = self._replicas.has_down
        return min(_WAIT_WHILE_DOWN_S, self._settings.view_wait_s) if has_down else self._settings.view_wait_s

    def take(self, view: ClusterView, since: int, asked_s: float) -> None:
        """Take an answer of the directory, to what it was asked then."""
        if view.cluster_id != self._secrets.cluster_id:
            self.is_superseded = True
            self._closing.set()
            return
        self._counts["views"] += 1
        with self._lock:
            if self._parts.take(view, since, self._secrets):
                self._publish()
        self.trusted_until_s = asked_s + self._secrets.view_s_max
        self._said = ""
        self._is_ready.set()

    def missed(self, error: Exception) -> None:
        """The directory could not be asked."""
        self._counts["missed_views"] += 1
        self._said = f"{type(error).__name__}: {error}"

    def tend(self) -> None:
        """Between two questions to the directory."""
        with self._lock:
            if self.now is not None and self._replicas.find_stale():
                self._publish()
            self._replicas.tend(time.monotonic())

    def _publish(self) -> None:
        view, fleet = self._parts.view, self._parts.fleet
        assert view is not None
        sources = self._replicas.choose(view.serving)
        index = TablesIndex(sources, fleet.roster)
        says = f"the directory has not confirmed it for {self._secrets.view_s_max:g} s (until it does)"
        reader, distrusted = (
            PromptReader(
                told, index, algorithm=algorithm_of(self._secrets), tier_weights=self._secrets.tier_weights
            )
            for told in (fleet, fleet.degraded(says))
        )
        parts = self._parts
        self.now = Now(
            reader, distrusted, sources, index, parts.serving, parts.serving_version, parts.subscribers
        )

    # What it knows of itself.

    @property
    def age_s(self) -> float:
        """Since the directory was last asked and confirmed the view."""
        return self._clock_s() - self.trusted_until_s + self._secrets.view_s_max

    @property
    def tokenizers(self) -> tuple[int, ...]:
        """Those of the newest view."""
        view = self._parts.view
        return () if view is None else view.tokenizers

    @property
    def routers(self) -> tuple[RouterAt, ...]:
        """Those of the newest view."""
        view = self._parts.view
        return () if view is None else view.routers

    def status(self) -> ReaderStatus:
        """How the cluster is read now."""
        with self._lock:
            now, view = self.now, self._parts.view
            counts = self._replicas.total() + self._counts
            shards = () if now is None else tuple(_readings(now.sources))
        now_s = self._clock_s()
        return ReaderStatus(
            cluster="" if view is None else view.cluster,
            view_version=0 if view is None else view.version,
            view_age_s=self.age_s if view is not None else float("inf"),
            is_trusted=now_s <= self.trusted_until_s,
            says=self._said,
            layout=0 if view is None else view.serving.number,
            shards=shards,
            sessions=() if view is None else view.sessions,
            n_workers=0 if now is None else len(now.reader.fleet.names),
            counts=dict(counts),
        )

    @property
    def is_closed(self) -> bool:
        return self._closing.is_set()

    def close(self) -> None:
        """Stop following, let go of tables and links. Twice is fine."""
        self._closing.set()
        self._is_ready.set()
        if self._thread is not threading.current_thread():
            self._thread.join(_END_S_MAX)  # who holds the question back may do so for longer
        with self._lock:
            self.now = None
            self._parts = FleetParts()
            self._replicas.close()


def _readings(sources: ShardSources) -> list[ShardReading]:
    readings = []
    for shard in range(sources.n_shards):
        at, fetchers = sources.attached.get(shard), sources.asked.get(shard, [])
        said = "; ".join(fetcher.said for fetcher in fetchers if fetcher.is_down)
        readings.append(
            ShardReading(
                shard=shard,
                how="attached" if at is not None else "asked" if fetchers else "missing",
                replicas=(at.replica.incarnation,)
                if at is not None
                else tuple(fetcher.address.incarnation for fetcher in fetchers),
                is_whole=at.table.whole if at is not None else None,
                says=said if fetchers else "" if at is not None else "no process holds it",
            )
        )
    return readings


def _end(closing: threading.Event, replicas: Replicas) -> None:
    closing.set()
    replicas.close()
