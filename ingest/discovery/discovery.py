"""All watches together: which pods should be followed now."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import msgspec

from kvatlas.ingest.discovery.asking import Ask, Asker
from kvatlas.ingest.discovery.config import DiscoveryConfig
from kvatlas.ingest.discovery.ledger import PodLedger, PodState
from kvatlas.ingest.discovery.pods import DiscoveredPod, PodWatch, WatchStatistics
from kvatlas.ingest.discovery.registration.registry import PodRegistry
from kvatlas.ingest.discovery.source_query import ask_sources
from kvatlas.ingest.discovery.watches import make_watch

_log = logging.getLogger(__name__)


class DiscoveryStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What discovery knows and has seen."""

    states: dict[str, int]
    """Pods by state (`PodState.state`)."""
    duplicates: int
    """Pods that more than one watch names; the first counts."""
    counts: dict[str, int]
    """Counters of docs/discovery.md."""
    said: dict[str, str]
    """The last complaint of each kind."""
    watches: tuple[WatchStatistics, ...]


class _Sink:
    """Where one watch tells its pods."""

    def __init__(self, discovery: Discovery, watch: int) -> None:
        self._discovery = discovery
        self._watch = watch

    def replace(self, pods: Iterable[DiscoveredPod]) -> None:
        self._discovery.replace(self._watch, pods)

    def change(self, pods: Iterable[DiscoveredPod], left: Iterable[str] = ()) -> None:
        self._discovery.change(self._watch, pods, left)


class Discovery:
    """Runs the watches, asks servers, and keeps the ledger. Any thread, any method.

    `registry` is the first of the watches; `more` are further ones, of other origin than the
    configuration. Raises ConfigError for a watch that can never work.
    """

    def __init__(
        self,
        config: DiscoveryConfig | None = None,
        *,
        on_change: Callable[[], None] | None = None,
        clock_s: Callable[[], float] = time.monotonic,
        more: Sequence[PodWatch] = (),
        ask: Ask = ask_sources,
    ) -> None:
        self.config = config or DiscoveryConfig()
        limits = self.config.limits
        self._lock = threading.RLock()
        self.registry = PodRegistry(limits.pods_max, clock_s, self._lock)
        self._clock_s = clock_s
        self._on_change = on_change
        self._changed = threading.Condition(self._lock)
        made = [make_watch(one, self.registry, clock_s) for one in self.config.watches]
        self.watches: tuple[PodWatch, ...] = (self.registry, *made, *more)
        self._ledger = PodLedger(limits, len(self.watches), clock_s)
        self._asker = Asker(limits, self._lock, clock_s, self._answered, ask)
        self._thread = threading.Thread(target=self._run, name="kvatlas-discovery", daemon=True)
        self._told = 0
        self._stopping = False
        self.registry.on_change(self._wake)

    # What should be followed.

    @property
    def version(self) -> int:
        """Rises when `pods()` changes."""
        return self._ledger.version

    def pods(self) -> dict[str, DiscoveredPod]:
        """By id; all have sources or can be sent requests, and no two of them the same endpoint."""
        with self._lock:
            return dict(self._ledger.following)

    def wait(self, version: int, timeout_s: float) -> int:
        """The version as soon as it is not `version`, or after `timeout_s`."""
        with self._changed:
            self._changed.wait_for(lambda: self._ledger.version != version or self._stopping, timeout_s)
            return self._ledger.version

    def states(self) -> tuple[PodState, ...]:
        """Of all pods that any watch names, and of those that left and are not cleared yet."""
        with self._lock:
            states = {state.pod: state for state in self._ledger.states()}
            for pod, why in self._asker.waiting():
                told = PodState(
                    pod=pod.pod,
                    state="asking",
                    why=why or "its server has not answered yet",
                    found_by=pod.found_by,
                    node=pod.node,
                    labels=pod.labels,
                )
                states.setdefault(pod.pod, told)
            return tuple(states.values())

    def statistics(self) -> DiscoveryStatistics:
        watches = tuple(watch.statistics() for watch in self.watches)
        with self._lock:
            return DiscoveryStatistics(
                states=dict(Counter(state.state for state in self.states())),
                duplicates=self._ledger.duplicates(),
                counts={**self._ledger.counts, **self._asker.counts},
                said=dict(self._ledger.said),
                watches=watches,
            )

    # Life.

    def start(self) -> Discovery:
        """Begin to watch; returns itself."""
        self._asker.start()
        self._thread.start()
        try:
            for number, watch in enumerate(self.watches):
                watch.start(_Sink(self, number))
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End all watches; what is known stays as it is. Twice is fine."""
        for watch in self.watches:
            watch.stop()
        self._asker.stop()
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def tick(self) -> None:
        """Do what has become due. The thread does it too."""
        self.registry.tick()
        with self._changed:
            self._ledger.tick()
            self._changed.notify_all()
        self._tell()

    # What watches say.

    def replace(self, watch: int, pods: Iterable[DiscoveredPod]) -> None:
        with self._changed:
            self._ledger.replace(watch, self._asker.replace(watch, pods))
            self._changed.notify_all()

    def change(self, watch: int, pods: Iterable[DiscoveredPod], left: Iterable[str]) -> None:
        named, gone = list(pods), list(left)
        with self._changed:
            ready = self._asker.change(watch, named, gone)
            known = {pod.pod for pod in ready}
            gone += [pod.pod for pod in named if pod.pod not in known]  # they are not where they were
            self._ledger.change(watch, ready, gone)
            self._changed.notify_all()

    def _answered(self, watch: int, pod: DiscoveredPod) -> None:
        """Under the lock."""
        self._ledger.change(watch, [pod])
        self._changed.notify_all()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._stopping and self._ledger.version == self._told:
                    wait_s = self._wait_s()
                    if wait_s is not None and wait_s <= 0:
                        break
                    self._changed.wait(wait_s)
                if self._stopping:
                    return
            self.tick()

    def _wait_s(self) -> float | None:
        due_s = [one for one in (self._ledger.next_s(), self.registry.next_s()) if one is not None]
        return min(due_s) - self._clock_s() if due_s else None

    def _tell(self) -> None:
        with self._lock:
            has_changed, self._told = self._ledger.version != self._told, self._ledger.version
        if has_changed and self._on_change is not None:
            try:
                self._on_change()
            except Exception:  # of others: discovery goes on
                _log.exception("discovery: whoever is told of changes raised")
