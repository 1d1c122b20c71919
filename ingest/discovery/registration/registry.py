"""Pods that registered themselves, or were added by hand."""

from __future__ import annotations

import heapq
import threading
from collections import Counter
from collections.abc import Callable

import msgspec

from kvatlas.index.errors import DecodeError, InputError
from kvatlas.ingest.discovery.pods import (
    DiscoveredPod,
    PodSink,
    WatchStatistics,
    check_pod,
    decode_pod,
    encode_pod,
)

NAME = "registered"
_SNAPSHOT_VERSION = 1


class Registration(msgspec.Struct, frozen=True):
    """A registered pod."""

    pod: DiscoveredPod
    ttl_s: float | None
    """Seconds that it was registered for; None: until it is withdrawn."""
    left_s: float | None
    """Seconds of these that are left."""


class _Kept(msgspec.Struct, frozen=True):
    """A registration in a snapshot."""

    pod: bytes
    ttl_s: float | None


class _Snapshot(msgspec.Struct, frozen=True):
    version: int
    kept: tuple[_Kept, ...]


class PodRegistry:
    """A watch that is told of pods instead of finding them. Any thread, any method.

    It tells its sink under `lock`; give it the sink's own, where that has one.
    """

    def __init__(
        self, pods_max: int, clock_s: Callable[[], float], lock: threading.RLock | None = None
    ) -> None:
        self.version = 0
        """Rises when a snapshot would differ; not with renewals."""
        self._pods_max = pods_max
        self._clock_s = clock_s
        self._lock = lock or threading.RLock()
        self._pods: dict[str, tuple[DiscoveredPod, float | None, float | None]] = {}  # with ttl and end
        self._ends: list[tuple[float, str]] = []
        self._counts: Counter[str] = Counter()
        self._sink: PodSink | None = None
        self._changed: Callable[[], None] = lambda: None

    @property
    def name(self) -> str:
        return NAME

    def on_change(self, changed: Callable[[], None]) -> None:
        """Call this when `next_s` may have become earlier."""
        self._changed = changed

    def register(self, pod: DiscoveredPod, ttl_s: float | None = None) -> bool:
        """Name a pod, for `ttl_s` or until it is withdrawn; again: renew it. Whether it is new or different.

        Raises InputError or ConfigError for a pod that cannot be followed, or one too many.
        """
        check_pod(pod)
        if ttl_s is not None and not 0 < ttl_s <= 1 << 40:
            raise InputError(f"ttl_s: expected a number above 0, got {ttl_s!r}")
        pod = msgspec.structs.replace(pod, found_by=pod.found_by or NAME)
        with self._lock:
            known = self._pods.get(pod.pod)
            if not self.has_room(pod.pod):
                self._counts["registrations_refused"] += 1
                raise InputError(f"pods: expected at most {self._pods_max} registered, got one beyond")
            self._keep(pod, ttl_s)
            is_new = known is None or known[0] != pod
            self._counts["registered" if is_new else "renewed"] += 1
            if is_new or (known is not None and known[1] != ttl_s):
                self.version += 1
            if is_new and self._sink is not None:
                self._sink.change([pod])
        self._changed()
        return is_new

    def has_room(self, pod_id: str) -> bool:
        """Whether this pod can be registered, or renewed."""
        with self._lock:
            return pod_id in self._pods or len(self._pods) < self._pods_max

    def withdraw(self, pod_id: str) -> bool:
        """End a registration; whether there was one."""
        with self._lock:
            return self._end(pod_id, "withdrawn")

    def registered(self) -> list[Registration]:
        """In the order in which they came."""
        with self._lock:
            now_s = self._clock_s()
            return [
                Registration(pod, ttl_s, None if end_s is None else max(0.0, end_s - now_s))
                for pod, ttl_s, end_s in self._pods.values()
            ]

    def tick(self) -> None:
        """End what has not been renewed in time."""
        with self._lock:
            now_s = self._clock_s()
            while self._ends and self._ends[0][0] <= now_s:
                end_s, pod_id = heapq.heappop(self._ends)
                if pod_id in self._pods and self._pods[pod_id][2] == end_s:
                    self._end(pod_id, "expired")

    def next_s(self) -> float | None:
        """When `tick` may have something to do, by the clock; None: never as things are."""
        with self._lock:
            return self._ends[0][0] if self._ends else None

    def snapshot(self) -> bytes:
        """All registrations, for another process or another time. Holds the secrets of CURVE sources."""
        with self._lock:
            kept = tuple(_Kept(encode_pod(pod), ttl_s) for pod, ttl_s, _ in self._pods.values())
        return msgspec.msgpack.encode(_Snapshot(_SNAPSHOT_VERSION, kept))

    def restore(self, snapshot: bytes) -> int:
        """Register what a snapshot holds, each with its whole time again; how many. Known pods stay.

        Raises DecodeError for other bytes; what cannot be followed any more is counted and left out.
        """
        try:
            read = msgspec.msgpack.decode(snapshot, type=_Snapshot)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise DecodeError(f"registrations: expected a snapshot, {error}") from None
        if read.version != _SNAPSHOT_VERSION:
            raise DecodeError(f"registrations: expected version {_SNAPSHOT_VERSION}, got {read.version}")
        count = 0
        for kept in read.kept:
            try:
                pod = decode_pod(kept.pod)
                with self._lock:
                    if pod.pod not in self._pods:
                        self.register(pod, kept.ttl_s)
                        count += 1
            except ValueError:
                self._counts["not_restored"] += 1
        return count

    # As a watch.

    def start(self, sink: PodSink) -> None:
        with self._lock:
            self._sink = sink
            sink.replace([pod for pod, _, _ in self._pods.values()])

    def stop(self) -> None:
        with self._lock:
            self._sink = None

    def statistics(self) -> WatchStatistics:
        with self._lock:
            return WatchStatistics(name=NAME, pods=len(self._pods), counts=dict(self._counts))

    def _keep(self, pod: DiscoveredPod, ttl_s: float | None) -> None:
        end_s = None if ttl_s is None else self._clock_s() + ttl_s
        self._pods[pod.pod] = (pod, ttl_s, end_s)
        if end_s is not None:
            heapq.heappush(self._ends, (end_s, pod.pod))
            if len(self._ends) > 4 * len(self._pods) + 64:  # most were renewed
                self._ends = [(kept[2], name) for name, kept in self._pods.items() if kept[2] is not None]
                heapq.heapify(self._ends)

    def _end(self, pod_id: str, kind: str) -> bool:
        if self._pods.pop(pod_id, None) is None:
            return False
        self._counts[kind] += 1
        self.version += 1
        if self._sink is not None:
            self._sink.change([], [pod_id])
        return True
