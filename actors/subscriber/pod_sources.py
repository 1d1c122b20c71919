"""Makes a subscriber follow the pods of its orders, and no others."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Protocol

import msgspec

from kvatlas.actors.orders import PodOrders
from kvatlas.index.errors import KvatlasError
from kvatlas.ingest.config import PodConfig
from kvatlas.ingest.discovery.pods import DiscoveredPod, check_pod, decode_pod
from kvatlas.ingest.sockets.source_config import SourceConfig

_log = logging.getLogger(__name__)


class PodBook(Protocol):
    """What knows pods: a `FleetMirror`."""

    def set_pod(self, pod: str, config: PodConfig | None) -> None: ...
    def set_block_size(self, model: str, tokens: int) -> None: ...
    def remove_pod(self, pod: str) -> None: ...


class Sockets(Protocol):
    """What listens: a `Subscriber` of kvatlas.ingest."""

    def add(self, source: SourceConfig | str) -> str: ...
    def remove(self, endpoint: str) -> None: ...


class PodSources:
    """The pods followed, and their sources. One thread at a time."""

    def __init__(self, book: PodBook, sockets: Sockets) -> None:
        self.counts: Counter[str] = Counter()
        """Pods, sources and block sizes refused, since the start. Sources are tried again each time."""
        self._book = book
        self._sockets = sockets
        self._ordered: dict[str, bytes] = {}
        self._pods: dict[str, DiscoveredPod] = {}
        self._sizes: dict[str, int] = {}
        """Tokens in a block, by model, as last told."""
        self._refused: dict[str, bytes] = {}
        """Orders that nobody could follow, by pod."""
        self._open: dict[bytes, str] = {}
        """By source, encoded, the endpoint by which it is removed."""
        self._failing: set[bytes] = set()

    @property
    def pods(self) -> frozenset[str]:
        """Those that are followed."""
        return frozenset(self._pods)

    @property
    def servers(self) -> frozenset[str]:
        """Those among them that are no announcers of a store's files."""
        return frozenset(name for name, pod in self._pods.items() if pod.announces is None)

    @property
    def hears_others(self) -> bool:
        """Whether a source may speak for pods that are not ordered by name: those that dial, say."""
        return any(source.pod is None for pod in self._pods.values() for source in pod.sources)

    def obey(self, orders: Iterable[PodOrders]) -> bool:
        """Follow exactly these; whether a source was closed. What cannot be followed is logged, counted
        and left out.

        What goes is closed before what comes is opened: an endpoint may move from pod to pod.
        """
        n_open = len(self._open)
        self.learn(orders)
        has_closed = len(self._open) < n_open
        for pod in self._pods.values():
            if pod.model is not None and pod.block_size_tokens is not None:
                self.set_block_size(pod.model, pod.block_size_tokens)
        self._open_missing()
        return has_closed

    def learn(self, orders: Iterable[PodOrders]) -> None:
        """Know these pods beforehand, and forget the others; listen to nothing yet."""
        ordered = {order.pod: order.source for order in orders}
        if ordered != self._ordered:
            self._ordered = ordered
            self._take(ordered)

    def set_block_size(self, model: str, tokens: int) -> None:
        """Somebody knows it. Told once; one that cannot be is counted."""
        if self._sizes.get(model) == tokens:
            return
        self._sizes[model] = tokens
        try:
            self._book.set_block_size(model, tokens)
        except KvatlasError as error:
            _log.info("block size of %r: %s", model, error)
            self.counts["refused_block_sizes"] += 1

    def _take(self, ordered: dict[str, bytes]) -> None:
        wanted = {}
        for pod, source in ordered.items():
            found = self._decoded(pod, source)
            if found is not None:
                wanted[pod] = found
        self._refused = {pod: source for pod, source in self._refused.items() if pod in ordered}
        sources = _sources_of(wanted)
        for gone in self._open.keys() - sources.keys():
            self._close(gone)
        self._failing &= sources.keys()
        for pod in self._pods.keys() - wanted.keys():
            self._book.remove_pod(pod)
            self._book.set_pod(pod, None)
        for pod, found in wanted.items():
            known = self._pods.get(pod)
            if known is None or not known.feeds_as(found):
                self._book.set_pod(pod, found.settings)
        self._pods = wanted

    def _decoded(self, pod: str, source: bytes) -> DiscoveredPod | None:
        if self._refused.get(pod) == source:
            return None
        try:
            found = decode_pod(source)
            check_pod(found)
        except KvatlasError as error:
            _log.warning("pod %r is not followed: %s", pod, error)
            self.counts["refused_pods"] += 1
            self._refused[pod] = source
            return None
        return found

    def _open_missing(self) -> None:
        for key, source in _sources_of(self._pods).items():
            if key in self._open:
                continue
            try:
                self._open[key] = self._sockets.add(source)
                self._failing.discard(key)
            except KvatlasError as error:
                self.counts["refused_sources"] += 1
                if key not in self._failing:
                    _log.warning("%s is not listened to, and tried again: %s", source.endpoint, error)
                self._failing.add(key)

    def _close(self, key: bytes) -> None:
        endpoint = self._open.pop(key)
        try:
            self._sockets.remove(endpoint)
        except KvatlasError as error:
            _log.warning("%s: %s", endpoint, error)


def _sources_of(pods: dict[str, DiscoveredPod]) -> dict[bytes, SourceConfig]:
    """Each once: a socket that listens for many pods may be named by all of them."""
    return {msgspec.msgpack.encode(source): source for pod in pods.values() for source in pod.sources}
