"""Which pods should be followed now: watches merged, leavers given time, flapping ones held.

A pod is *seen* while a watch names it; of several, the first in their order counts. Seen pods are
*admitted*: they are followed. One that is seen no more is *leaving* for `grace_s`: it is sent no
requests, then cleared; back within that time as it was, nothing else has happened. Each admission
is noted: a pod with `flap_admissions` of them within `flap_window_s` is *held* instead, until it
has been seen, as it is, for a time that doubles with each hold. Clearing is never held back, and
neither is giving up sources that are not the pod's any more: what is followed is right, only
perhaps late. A pod whose endpoint another one has is *refused* until that one leaves, whose grace
then ends at once.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable

import msgspec

from kvatlas.index.errors import KvatlasError
from kvatlas.ingest.discovery.config import DiscoveryLimits
from kvatlas.ingest.discovery.pods import DiscoveredPod, check_pod

_FULL = ""
"""Stands for the endpoint that pods beyond `pods_max` wait for."""
_COMPLAINT_CHARACTERS = 300


class PodState(msgspec.Struct, frozen=True, kw_only=True):
    """A pod and why it is followed, or not."""

    pod: str
    state: str
    """following, leaving (still followed), held, refused, or asking (its server, for its sources)."""
    why: str = ""
    left_s: float | None = None
    """Seconds until that ends, where it ends by itself."""
    found_by: str = ""
    node: str | None = None
    labels: dict[str, str] = {}


class _Entry:
    """What is remembered of one id."""

    __slots__ = (
        "admitted_s",
        "due_s",
        "hold_s",
        "left_s",
        "out",
        "refused",
        "refused_for",
        "seen",
        "wanted",
        "wanted_s",
    )

    def __init__(self, admissions_max: int) -> None:
        self.seen: DiscoveredPod | None = None
        self.out: DiscoveredPod | None = None
        self.left_s: float | None = None  # since when it is not seen, while it is still followed
        self.wanted: DiscoveredPod | None = None  # held, in this form
        self.wanted_s = 0.0  # when it may be admitted
        self.hold_s = 0.0
        self.admitted_s: deque[float] = deque(maxlen=admissions_max)
        self.refused = ""
        self.refused_for = ""
        self.due_s: float | None = None  # of its newest timer


class PodLedger:
    """Plain bookkeeping: no threads, no sockets, and the clock is given. One caller at a time."""

    def __init__(self, limits: DiscoveryLimits, watches: int, clock_s: Callable[[], float]) -> None:
        self.limits = limits
        self.following: dict[str, DiscoveredPod] = {}
        self.version = 0
        """Rises when `following` changes."""
        self.counts: Counter[str] = Counter()
        self.said: dict[str, str] = {}
        """The last complaint of each kind."""
        self._clock_s = clock_s
        self._watches: list[dict[str, DiscoveredPod]] = [{} for _ in range(watches)]
        self._entries: dict[str, _Entry] = {}
        self._histories: OrderedDict[str, None] = OrderedDict()  # neither seen nor followed: only remembered
        self._owners: dict[str, str] = {}  # endpoint -> pod that is followed
        self._waiting: dict[str, dict[str, None]] = {}  # endpoint -> pods refused for it, in their order
        self._timers: list[tuple[float, str]] = []
        self._freed: list[DiscoveredPod] = []  # their endpoints may be free; looked at last
        self._has_changed = False

    # What watches say.

    def replace(self, watch: int, pods: Iterable[DiscoveredPod]) -> None:
        """These are all that this watch knows now; twice the same id: the first counts."""
        table, found = self._watches[watch], dict[str, DiscoveredPod]()
        for pod in pods:
            if pod.pod in found:
                self._complain("repeated", f"{pod.pod!r} is named twice")
            elif self._is_good(pod, table.get(pod.pod), len(found)):
                found[pod.pod] = pod
        left = [pod for pod in table if pod not in found]
        self._watches[watch] = found
        for pod_id in left:
            self._settle(pod_id)
        for pod_id, pod in found.items():
            if table.get(pod_id) != pod:
                self._settle(pod_id)
        self._end_of_change()

    def change(self, watch: int, pods: Iterable[DiscoveredPod], left: Iterable[str] = ()) -> None:
        """These are new or different; those have left."""
        table = self._watches[watch]
        for pod_id in left:
            if table.pop(pod_id, None) is not None:
                self._settle(pod_id)
        for pod in pods:
            known = table.get(pod.pod)
            if not self._is_good(pod, known, len(table) - (known is not None)):
                if known is not None and table.pop(pod.pod, None) is not None:
                    self._settle(pod.pod)  # what was known of it is not so any more
            elif known != pod:
                table[pod.pod] = pod
                self._settle(pod.pod)
        self._end_of_change()

    # Time.

    def tick(self) -> None:
        """Do what has become due."""
        now_s = self._clock_s()
        while self._timers and self._timers[0][0] <= now_s:
            due_s, pod_id = heapq.heappop(self._timers)
            entry = self._entries.get(pod_id)
            if entry is not None and entry.due_s == due_s:
                entry.due_s = None
                self._settle(pod_id)
        self._end_of_change()

    def next_s(self) -> float | None:
        """When `tick` has something to do, by the clock; None: never as things are."""
        return self._timers[0][0] if self._timers else None

    # What is told.

    def states(self) -> list[PodState]:
        """Of all pods that are seen or followed."""
        now_s = self._clock_s()
        told = []
        for pod_id, entry in self._entries.items():
            pod = entry.seen or entry.out
            if pod is None:
                continue
            state, why, due_s = self._state(entry)
            left_s = None if due_s is None else max(0.0, due_s - now_s)
            told.append(
                PodState(
                    pod=pod_id,
                    state=state,
                    why=why,
                    left_s=left_s,
                    found_by=pod.found_by,
                    node=pod.node,
                    labels=pod.labels,
                )
            )
        return told

    def duplicates(self) -> int:
        """Ids that more than one watch names now."""
        seen = Counter(pod_id for table in self._watches for pod_id in table)
        return sum(count > 1 for count in seen.values())

    def _state(self, entry: _Entry) -> tuple[str, str, float | None]:
        if entry.left_s is not None:
            return "leaving", "no watch names it any more", entry.left_s + self.limits.grace_s
        if entry.wanted is not None:
            return "held", f"followed anew {len(entry.admitted_s)} times of late", entry.wanted_s
        if entry.refused:
            return "refused", entry.refused, None
        return "following", "", None

    # One pod.

    def _settle(self, pod_id: str) -> None:
        """Bring one pod to where what is seen and the time put it."""
        entry = self._entries.get(pod_id)
        if entry is None:
            entry = self._entries[pod_id] = _Entry(self.limits.flap_admissions)
        entry.seen = next((table[pod_id] for table in self._watches if pod_id in table), None)
        self._stop_waiting(pod_id, entry)
        if entry.seen is None:
            self._unseen(pod_id, entry)
        else:
            self._histories.pop(pod_id, None)
            self._seen(pod_id, entry, entry.seen)

    def _unseen(self, pod_id: str, entry: _Entry) -> None:
        entry.wanted = None
        now_s = self._clock_s()
        if entry.out is not None:
            if entry.left_s is None:
                entry.left_s = now_s
                self.counts["left"] += 1
                entry.out = self.following[pod_id] = entry.out.draining()
                self._has_changed = True
            if now_s < entry.left_s + self.limits.grace_s:
                self._wake(pod_id, entry, entry.left_s + self.limits.grace_s)
                self._freed.append(entry.out)
                return
            self._clear(pod_id, entry)
        self._remember(pod_id, entry)

    def _remember(self, pod_id: str, entry: _Entry) -> None:
        """Of one that is neither seen nor followed, its admissions for as long as they count."""
        if not self._recent(entry, self._clock_s()):
            self._entries.pop(pod_id, None)
            self._histories.pop(pod_id, None)
            return
        self._wake(pod_id, entry, entry.admitted_s[-1] + self.limits.flap_window_s)
        self._histories[pod_id] = None
        if len(self._histories) > self.limits.pods_max:
            self._entries.pop(self._histories.popitem(last=False)[0], None)

    def _seen(self, pod_id: str, entry: _Entry, seen: DiscoveredPod) -> None:
        if entry.left_s is not None:
            entry.left_s = None
            self.counts["returned"] += 1
        if entry.out is not None and entry.out.feeds_as(seen):
            entry.wanted = None
            if entry.out != seen:  # labels and the like: nothing to follow anew
                entry.out = self.following[pod_id] = seen
                self._has_changed = True
            return
        if entry.out is not None:
            self.counts["moved"] += 1
        if self._must_wait(pod_id, entry, seen):
            if entry.out is not None:
                self._clear(pod_id, entry)
            return
        if self._make_room(pod_id, entry, seen):
            self._admit(pod_id, entry, seen)
        elif entry.out is not None:
            self._clear(pod_id, entry)

    def _must_wait(self, pod_id: str, entry: _Entry, seen: DiscoveredPod) -> bool:
        """Whether it is held: begins a hold, or goes on with one, or ends it."""
        now_s = self._clock_s()
        if entry.wanted is not None and entry.wanted.feeds_as(seen):
            if now_s >= entry.wanted_s:
                entry.wanted = None
                return False
        elif entry.wanted is None and len(self._recent(entry, now_s)) < self.limits.flap_admissions:
            return False
        else:
            least = self.limits.hold_s_min
            entry.hold_s = min(max(least, 2 * entry.hold_s), self.limits.hold_s_max)
            entry.wanted_s = now_s + entry.hold_s
            self.counts["held"] += 1
        entry.wanted = seen
        self._wake(pod_id, entry, entry.wanted_s)
        return True

    def _recent(self, entry: _Entry, now_s: float) -> deque[float]:
        """Admissions that still count; with none of them the pod is as good as new."""
        while entry.admitted_s and entry.admitted_s[0] + self.limits.flap_window_s <= now_s:
            entry.admitted_s.popleft()
        if not entry.admitted_s:
            entry.hold_s = 0.0
        return entry.admitted_s

    def _make_room(self, pod_id: str, entry: _Entry, seen: DiscoveredPod) -> bool:
        """Whether all its endpoints are free, or were those of leavers, who go now."""
        if entry.out is None and len(self.following) >= self.limits.pods_max:
            self._refuse(pod_id, entry, _FULL, f"{self.limits.pods_max} pods are followed already")
            return False
        owners = {
            endpoint: owner
            for endpoint in (source.endpoint for source in seen.sources)
            if (owner := self._owners.get(endpoint, pod_id)) != pod_id
        }
        for endpoint, owner in owners.items():
            if self._entries[owner].left_s is None:
                self._refuse(pod_id, entry, endpoint, f"{endpoint} is the endpoint of {owner!r}")
                return False
        for owner in set(owners.values()):
            self.counts["reused_endpoints"] += 1
            leaver = self._entries[owner]
            self._clear(owner, leaver)
            self._remember(owner, leaver)  # if it is seen again, its turn comes
        return True

    def _refuse(self, pod_id: str, entry: _Entry, endpoint: str, why: str) -> None:
        entry.refused, entry.refused_for = why, endpoint
        self._waiting.setdefault(endpoint, {})[pod_id] = None
        self._complain("refused", f"{pod_id!r}: {why}")

    def _stop_waiting(self, pod_id: str, entry: _Entry) -> None:
        if entry.refused:
            waiting = self._waiting[entry.refused_for]
            del waiting[pod_id]
            if not waiting:
                del self._waiting[entry.refused_for]
            entry.refused = ""

    def _admit(self, pod_id: str, entry: _Entry, seen: DiscoveredPod) -> None:
        self._give_up_endpoints(entry)
        for source in seen.sources:
            self._owners[source.endpoint] = pod_id
        entry.out = self.following[pod_id] = seen
        entry.admitted_s.append(self._clock_s())
        self.counts["admitted"] += 1
        self._has_changed = True

    def _clear(self, pod_id: str, entry: _Entry) -> None:
        self._give_up_endpoints(entry)
        entry.out = entry.left_s = None
        del self.following[pod_id]
        self.counts["cleared"] += 1
        self._has_changed = True

    def _give_up_endpoints(self, entry: _Entry) -> None:
        if entry.out is not None:
            for source in entry.out.sources:
                del self._owners[source.endpoint]
            self._freed.append(entry.out)

    def _admit_waiting(self, gone: DiscoveredPod) -> None:
        """Those who waited for an endpoint of this pod, or for room, have their turn."""
        for endpoint in (_FULL, *(source.endpoint for source in gone.sources)):
            while waiting := self._waiting.get(endpoint):
                pod_id = next(iter(waiting))
                self._settle(pod_id)
                if pod_id in self._waiting.get(endpoint, ()):
                    break

    def _wake(self, pod_id: str, entry: _Entry, due_s: float) -> None:
        entry.due_s = due_s
        heapq.heappush(self._timers, (due_s, pod_id))
        if len(self._timers) > 4 * len(self._entries) + 64:  # most are not meant any more
            self._timers = [
                (entry.due_s, pod_id) for pod_id, entry in self._entries.items() if entry.due_s is not None
            ]
            heapq.heapify(self._timers)

    # Bad ones.

    def _is_good(self, pod: DiscoveredPod, known: DiscoveredPod | None, others: int) -> bool:
        if others >= self.limits.pods_max:
            self._complain("beyond_pods_max", f"{pod.pod!r} is beyond {self.limits.pods_max} of one watch")
            return False
        if pod == known:
            return True
        try:
            check_pod(pod)
        except KvatlasError as error:
            self._complain("bad_pods", str(error))
            return False
        return True

    def _complain(self, kind: str, what: str) -> None:
        self.counts[kind] += 1
        self.said[kind] = what[:_COMPLAINT_CHARACTERS]

    def _end_of_change(self) -> None:
        while self._freed:
            self._admit_waiting(self._freed.pop())
        if self._has_changed:
            self._has_changed = False
            self.version += 1
