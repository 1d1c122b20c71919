"""A byte cap for an object store, by listing it: objects have no last use, so the oldest written go first."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence

from kvatlas.offload.backends.objects_chunk import key_of_path
from kvatlas.offload.backends.objects_client import Listed, ObjectClient, ObjectError
from kvatlas.offload.capacity.limits import CapacityLimits

_log = logging.getLogger(__name__)

_SPAN_S = 60  # ages are told apart by so much, at first
_SPANS_MAX = 16_384
_REMOVED_MAX = 65_536  # keys that wait for take_removed
_DELETE_KEYS = 1000  # of one request, S3's own bound


class ObjectsCapacity:
    """The room that is left below a store's root. Thread-safe; only its own thread waits for the network.

    All processes on the store list it, every five minutes and when there is no room; in between each counts
    what it writes itself, so together they can go over the cap by what is written in that time. Two that
    evict at once delete the same objects. Without a cap it asks nothing of the store.
    """

    def __init__(
        self,
        client: ObjectClient,
        folder: str,
        object_bytes: int,
        limits: CapacityLimits,
        *,
        list_s: float = 300.0,
        list_again_s: float = 10.0,
    ) -> None:
        """`folder`: the part of this process, whose evicted keys take_removed tells. Idle until `start`.

        It lists every `list_s`, and where there is no room after `list_again_s`.
        """
        self._client, self._folder, self._object_bytes = client, folder + "/", object_bytes
        self._limits, self._list_s, self._list_again_s = limits, list_s, list_again_s
        self._lock = threading.Lock()
        self._used_bytes = self._reserved_bytes = self._written_bytes = 0
        self._removed: deque[bytes] = deque()
        self._counts: dict[str, int] = dict.fromkeys(
            (
                "listings",
                "failed_listings",
                "evicted_objects",
                "evicted_bytes",
                "refused_chunks",
                "forgotten_removed",
            ),
            0,
        )
        self._wanted, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="kvatlas-objects-capacity", daemon=True)

    def start(self) -> None:
        """Begins to list; until the first listing is done there is room for everything."""
        if self._limits.capacity_bytes is not None:
            self._thread.start()

    def may_store(self, n_chunks: int) -> bool:
        """Reserves room for so many objects, if there is; from memory."""
        capacity_bytes = self._limits.capacity_bytes
        n_bytes = n_chunks * self._object_bytes
        with self._lock:
            used_bytes = self._used_bytes + self._written_bytes + self._reserved_bytes
            if capacity_bytes is None or used_bytes + n_bytes <= capacity_bytes:
                self._reserved_bytes += n_bytes
                return True
            self._counts["refused_chunks"] += n_chunks
        self._wanted.set()
        return False

    def stored(self, n_chunks: int) -> None:
        """Ends a reservation: the objects are there."""
        with self._lock:
            self._reserved_bytes -= n_chunks * self._object_bytes
            self._written_bytes += n_chunks * self._object_bytes

    def not_stored(self, n_chunks: int) -> None:
        """Ends a reservation: they are not, or were before."""
        with self._lock:
            self._reserved_bytes -= n_chunks * self._object_bytes

    def take_removed(self) -> Sequence[bytes]:
        """Keys of the own part that were evicted here since the last call."""
        with self._lock:
            removed = list(self._removed)
            self._removed.clear()
        return removed

    def close(self, seconds: float) -> None:
        self._closing.set()
        self._wanted.set()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def statistics(self) -> Mapping[str, float]:
        with self._lock:
            used_bytes = self._used_bytes + self._written_bytes
            return {
                "used_bytes": float(used_bytes),
                "reserved_bytes": float(self._reserved_bytes),
                **self._counts,
            }

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wanted.clear()
            try:
                self._keep()
            except ObjectError as error:
                self._count("failed_listings")
                _log.warning("%s: cannot be listed, its capacity is not kept: %s", self._client.url, error)
            if not self._closing.wait(self._list_again_s):
                self._wanted.wait(self._list_s)

    def _keep(self) -> None:
        with self._lock:
            written_bytes = self._written_bytes
        ages = Ages()
        for batch in self._client.listing():
            for one in batch:
                if key_of_path(one.path) is not None:
                    ages.add(one)
            if self._closing.is_set():
                return
        with self._lock:  # what was written while it was listed may be counted twice, until the next time
            self._used_bytes = ages.n_bytes
            self._written_bytes -= written_bytes
        self._count("listings")
        capacity_bytes = self._limits.capacity_bytes or 0
        if self._limits.evicts and ages.n_bytes > self._limits.high_share * capacity_bytes:
            self._evict(ages, int(ages.n_bytes - self._limits.low_share * capacity_bytes))

    def _evict(self, ages: Ages, excess_bytes: int) -> None:
        # By the store's clock, of which the newest object is the latest that is known: no age is overrated.
        until_s = min(ages.cutoff_s(excess_bytes), ages.newest_s - self._limits.lease_s)
        for batch in self._client.listing():
            old = [one for one in batch if one.modified_s < until_s and key_of_path(one.path) is not None]
            for at in range(0, len(old), _DELETE_KEYS):
                if excess_bytes <= 0 or self._closing.is_set():
                    return
                excess_bytes -= self._delete(old[at : at + _DELETE_KEYS], excess_bytes)

    def _delete(self, old: Sequence[Listed], excess_bytes: int) -> int:
        chosen: list[Listed] = []
        n_bytes = 0
        for one in old:
            if n_bytes < excess_bytes:
                chosen.append(one)
                n_bytes += one.size_bytes
        self._client.remove([one.path for one in chosen])
        keys = [
            key
            for one in chosen
            if one.path.startswith(self._folder) and (key := key_of_path(one.path)) is not None
        ]
        with self._lock:
            self._used_bytes -= n_bytes
            self._counts["evicted_objects"] += len(chosen)
            self._counts["evicted_bytes"] += n_bytes
            room = _REMOVED_MAX - len(self._removed)
            self._removed.extend(keys[:room])
            self._counts["forgotten_removed"] += len(keys[room:])
        return n_bytes

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1


class Ages:
    """Bytes by the time of their writing, in bounded memory: spans double when there are too many."""

    def __init__(self, spans_max: int = _SPANS_MAX) -> None:
        self._span_s, self._spans_max = _SPAN_S, spans_max
        self._span_to_bytes: dict[int, int] = {}
        self.n_bytes = 0
        self.newest_s = 0.0

    def add(self, one: Listed) -> None:
        span = int(one.modified_s // self._span_s)
        self._span_to_bytes[span] = self._span_to_bytes.get(span, 0) + one.size_bytes
        self.n_bytes += one.size_bytes
        self.newest_s = max(self.newest_s, one.modified_s)
        while self.n_spans > self._spans_max:
            self._double()

    @property
    def n_spans(self) -> int:
        return len(self._span_to_bytes)

    def cutoff_s(self, n_bytes: int) -> float:
        """A time before which at least so many bytes were written, or all."""
        before = 0
        for span in sorted(self._span_to_bytes):
            before += self._span_to_bytes[span]
            if before >= n_bytes:
                return float((span + 1) * self._span_s)
        return float("inf")

    def _double(self) -> None:
        halved: dict[int, int] = {}
        for span, n_bytes in self._span_to_bytes.items():
            halved[span // 2] = halved.get(span // 2, 0) + n_bytes
        self._span_s, self._span_to_bytes = 2 * self._span_s, halved
