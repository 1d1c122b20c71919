"""Pods of Kubernetes: listed once, then watched from there."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable

import msgspec

from kvatlas.ingest.discovery.config import KubernetesWatchConfig
from kvatlas.ingest.discovery.kube.book import PodBook
from kvatlas.ingest.discovery.kube.connection import ApiError, GoneError, PodsApi
from kvatlas.ingest.discovery.kube.objects import KubePod, WatchEvent
from kvatlas.ingest.discovery.pods import DiscoveredPod, PodSink, WatchStatistics

_WATCH_FAILURES_MAX = 3  # in a row; then all is listed again
_OLD_LISTS_MAX = 3  # in a row; then the API has gone back, as after a restored backup
_BRIEF_S = 1.0  # a watch that ended sooner is not continued at once

_log = logging.getLogger(__name__)


class KubernetesWatch:
    """A watch with one thread: list, then watch from the list's version on, as long as that goes.

    A watch that ends or breaks is continued where it was. "410 Gone", three failures in a row and
    `list_every_s` have everything listed again. As long as the API does not answer, what was known stays.
    Raises ConfigError when nothing says how to reach an API.
    """

    def __init__(self, config: KubernetesWatchConfig, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock_s = clock_s
        self._api = PodsApi(config)
        self._book = PodBook(config)
        self._sink: PodSink | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kvatlas-kubernetes", daemon=True)
        self._counts = self._book.counts
        self._failing: str | None = "not listed yet"
        self._pause_s = 0.0
        self._old_lists = 0

    @property
    def name(self) -> str:
        return self._config.name

    def start(self, sink: PodSink) -> None:
        self._sink = sink
        self._thread.start()

    def stop(self) -> None:
        """A request in flight is cut; one that cannot be ends by its own time, and is not heard."""
        self._stopping.set()
        self._api.close()
        if self._thread.ident is not None:
            self._thread.join(self._config.request_s_max)

    def statistics(self) -> WatchStatistics:
        return WatchStatistics(
            name=self.name,
            pods=len(self._book),
            failing=self._failing,
            said=self._book.said,
            counts=dict(self._counts),
        )

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if self._list():
                    self._follow(self._clock_s() + self._config.list_every_s)
                else:
                    self._pause()
            except GoneError as error:
                self._counts["gone"] += 1
                self._fail(error)
                self._pause()
            except ApiError as error:
                self._fail(error)
                self._pause()

    def _list(self) -> bool:
        """List everything and tell it; False when the answer is older than what is known."""
        try:
            objects, version = self._pages(in_pages=True)
        except GoneError:
            self._counts["gone"] += 1  # the list's own version expired while we read its pages
            objects, version = self._pages(in_pages=False)
        if self._book.is_old(version) and self._old_lists < _OLD_LISTS_MAX:
            self._counts["old_lists"] += 1
            self._old_lists += 1
            return False
        self._old_lists = 0
        pods = self._book.listed(objects, version)
        self._counts["lists"] += 1
        self._succeed()
        if self._sink is not None and not self._stopping.is_set():
            self._sink.replace(pods)
        return True

    def _pages(self, *, in_pages: bool) -> tuple[list[KubePod], str]:
        objects: list[KubePod] = []
        page: str | None = None
        while True:
            answer = self._api.list_page(page, in_pages=in_pages)
            items = answer.items or ()
            room = max(0, self._config.objects_max - len(objects))
            self._counts["objects_refused"] += max(0, len(items) - room)
            objects += items[:room]
            page = answer.metadata.continue_
            if not page or self._stopping.is_set() or room <= len(items):
                return objects, answer.metadata.resource_version

    def _follow(self, until_s: float) -> None:
        """Watch, again and again, until everything should be listed."""
        failures = 0
        while not self._stopping.is_set() and self._clock_s() < until_s:
            began_s = self._clock_s()
            try:
                with contextlib.closing(self._api.watch(self._book.version)) as events:
                    self._succeed()
                    for event in events:
                        self._apply(event)
                        failures = 0
                self._counts["watches_ended"] += 1
                if self._clock_s() < began_s + _BRIEF_S:
                    self._pause()
            except GoneError:
                raise
            except ApiError as error:
                if self._stopping.is_set():
                    return
                self._counts["watches_broken"] += 1
                failures += 1
                self._fail(error)
                if failures >= _WATCH_FAILURES_MAX:
                    raise
                self._pause()

    def _apply(self, event: WatchEvent) -> None:
        if self._stopping.is_set() or self._sink is None:
            return
        try:
            pod = msgspec.json.decode(event.object, type=KubePod)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ApiError(f"watch of pods: expected a v1.Pod, {error}") from None
        self._counts["events"] += 1
        if event.type == "BOOKMARK":
            self._book.advance(pod.metadata.resource_version)
        elif event.type in ("ADDED", "MODIFIED"):
            self._tell(*self._book.changed(pod))
        elif event.type == "DELETED":
            self._tell(*self._book.deleted(pod))
        else:
            self._counts["unknown_events"] += 1

    def _tell(self, pods: list[DiscoveredPod], left: list[str]) -> None:
        if self._sink is not None and (pods or left):
            self._sink.change(pods, left)

    def _succeed(self) -> None:
        self._failing = None
        self._pause_s = 0.0

    def _fail(self, error: ApiError) -> None:
        if self._stopping.is_set():
            return
        self._counts["requests_failed"] += 1
        if self._failing is None:
            _log.warning("discovery: %s: %s; what was known of its pods stays", self.name, error)
        self._failing = str(error)

    def _pause(self) -> None:
        """Longer each time, and not all at the same moment when an API comes back."""
        self._pause_s = min(max(self._config.retry_s_min, 2 * self._pause_s), self._config.retry_s_max)
        self._stopping.wait(self._pause_s * random.uniform(0.5, 1.0))
