"""What is known of a namespace's pods: lists and events put together, in whatever order they come."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

from kvatlas.index.errors import KvatlasError
from kvatlas.ingest.discovery.config import KubernetesWatchConfig
from kvatlas.ingest.discovery.kube.objects import KubePod, as_discovered
from kvatlas.ingest.discovery.pods import DiscoveredPod

_DELETED_MAX = 4096
_COMPLAINT_CHARACTERS = 300


class _Known(NamedTuple):
    """One object as last heard of; only what counts of it is kept."""

    uid: str
    version: str
    pod: DiscoveredPod | None
    """None: it does not count, or cannot be followed."""


class PodBook:
    """Objects by namespace and name, and what is to be told of them. One thread at a time.

    An object has a uid for life and a version that rises. What is older than what is known, or of an
    object that was deleted, is counted and left out: API servers answer from caches that lag.
    """

    def __init__(self, config: KubernetesWatchConfig) -> None:
        self.counts: Counter[str] = Counter()
        self.version = ""
        """Of the last list or event: where a watch goes on."""
        self.said = ""
        """The last complaint about a pod."""
        self._config = config
        self._objects: dict[str, _Known] = {}
        self._keys: dict[str, dict[str, None]] = {}  # pod id -> objects with that id, the oldest first
        self._deleted: OrderedDict[str, None] = OrderedDict()  # uids

    def __len__(self) -> int:
        return len(self._keys)

    def is_old(self, version: str) -> bool:
        """Whether a list of this version is older than what is known."""
        return _is_older(version, self.version)

    def listed(self, objects: Iterable[KubePod], version: str) -> list[DiscoveredPod]:
        """Take a whole list; all pods that count. What is not in it is gone."""
        before, self._objects, self._keys = self._objects, {}, {}
        for pod in objects:
            if pod.key not in self._objects:
                self._hear(pod, before.get(pod.key))
        self.version = version
        return [self._told(pod_id) for pod_id in self._keys]

    def changed(self, pod: KubePod) -> tuple[list[DiscoveredPod], list[str]]:
        """Take an object that was added or modified; what is to be told: changed pods, ids that left."""
        self._advance(pod)
        known = self._objects.get(pod.key)
        return self._ids_told(self._hear(pod, known))

    def deleted(self, pod: KubePod) -> tuple[list[DiscoveredPod], list[str]]:
        """Take an object that was deleted; what is to be told."""
        self._advance(pod)
        uid = pod.metadata.uid
        self._deleted[uid] = None
        if len(self._deleted) > _DELETED_MAX:
            self._deleted.popitem(last=False)
        known = self._objects.get(pod.key)
        if known is None or known.uid != uid:
            return [], []
        del self._objects[pod.key]
        return self._ids_told(self._let_go(pod.key, known))

    def advance(self, version: str) -> None:
        """Nothing else happened up to here."""
        if version and not _is_older(version, self.version):
            self.version = version

    def _advance(self, pod: KubePod) -> None:
        self.advance(pod.metadata.resource_version)

    def _hear(self, pod: KubePod, known: _Known | None) -> set[str]:
        """Keep an object if it is news; the pod ids that this concerns."""
        meta = pod.metadata
        is_old = known is not None and _is_older(meta.resource_version, known.version)
        if meta.uid in self._deleted or (is_old and pod.key in self._objects):
            self.counts["old_objects"] += 1
            return set()
        if is_old and known is not None:  # in a list: what is known is newer
            self.counts["old_objects"] += 1
            self._objects[pod.key] = known
            return self._hold(pod.key, known)
        if known is None and len(self._objects) >= self._config.objects_max:
            self.counts["objects_refused"] += 1
            return set()
        concerned = set() if known is None else self._let_go(pod.key, known)
        new = self._objects[pod.key] = _Known(meta.uid, meta.resource_version, self._followed(pod))
        return concerned | self._hold(pod.key, new)

    def _followed(self, pod: KubePod) -> DiscoveredPod | None:
        if not pod.counts:
            return None
        try:
            return as_discovered(pod, self._config)
        except KvatlasError as error:
            self.counts["bad_objects"] += 1
            self.said = f"{pod.key[:120]}: {error}"[:_COMPLAINT_CHARACTERS]
            return None

    def _hold(self, key: str, known: _Known) -> set[str]:
        if known.pod is None:
            return set()
        self._keys.setdefault(known.pod.pod, {})[key] = None
        return {known.pod.pod}

    def _let_go(self, key: str, known: _Known) -> set[str]:
        if known.pod is None:
            return set()
        keys = self._keys.get(known.pod.pod, {})
        keys.pop(key, None)
        if not keys:
            self._keys.pop(known.pod.pod, None)
        return {known.pod.pod}

    def _ids_told(self, pod_ids: set[str]) -> tuple[list[DiscoveredPod], list[str]]:
        there = [self._told(pod_id) for pod_id in pod_ids if pod_id in self._keys]
        return there, [pod_id for pod_id in pod_ids if pod_id not in self._keys]

    def _told(self, pod_id: str) -> DiscoveredPod:
        pod = self._objects[next(iter(self._keys[pod_id]))].pod
        assert pod is not None
        return pod


def _is_older(version: str, known: str) -> bool:
    """Versions are numbers wherever they can be compared at all; what is none is never older."""
    if not (version.isascii() and version.isdecimal() and known.isascii() and known.isdecimal()):
        return False
    return int(version[:40]) < int(known[:40])
