"""The requests of one router that are on their way to a replica, or run there."""

from __future__ import annotations

import itertools
import time
from asyncio import Future
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve._private.common import RequestMetadata
    from ray.serve.request_router import PendingRequest

    from kvatlas.cluster.serve.replicas.scoring import Scored


class Flight:
    """One routing of one call. A call that its replica refuses is routed anew: another flight."""

    __slots__ = ("began_s", "future", "is_routed", "pending", "pod", "request_id", "scored")

    def __init__(self, pending: PendingRequest, request_id: str, pod: str, began_s: float) -> None:
        self.pending = pending
        self.future = pending.future
        """Of this routing; `pending` has another when it is routed anew."""
        self.request_id = request_id
        """By which a chooser knows it; empty: it was not asked."""
        self.pod = pod
        self.began_s = began_s
        self.is_routed = False
        self.scored: Scored | None = None
        """What its chooser said; None: it was not asked, or it runs."""

    @property
    def internal_id(self) -> str:
        return self.pending.metadata.internal_request_id


class Flights:
    """By the future that Serve waits with, and by its own id of the request.

    Calls that one request makes share that id, so it names a set of flights; a completion ends the oldest
    of them at its replica. Bounded: at `flights_max` the oldest is forgotten. One thread: the event loop.
    """

    def __init__(
        self, unrouted_s: float, flights_max: int, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._unrouted_s = unrouted_s
        self._flights_max = flights_max
        self._clock_s = clock_s
        self._waiting: dict[Future[Any], Flight] = {}
        """In the order in which they began."""
        self._running: dict[Future[Any], Flight] = {}
        self._by_id: dict[str, list[Flight]] = {}
        self._at: Counter[str] = Counter()
        self._names: set[str] = set()
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._waiting) + len(self._running)

    def at(self, pod: str) -> int:
        """Flights to a pod."""
        return self._at[pod]

    def name(self, request_id: str) -> str:
        """An id that no living flight has: the request's, or with a number where its calls overlap."""
        return f"{request_id}~{next(self._numbers)}" if request_id in self._names else request_id

    def begin(self, pending: PendingRequest, request_id: str, pod: str) -> Flight:
        """`request_id`: as `name` gave it, or empty."""
        flight = Flight(pending, request_id, pod, self._clock_s())
        self._waiting[flight.future] = flight
        self._by_id.setdefault(flight.internal_id, []).append(flight)
        self._at[pod] += 1
        if request_id:
            self._names.add(request_id)
        return flight

    def of(self, future: Future[Any]) -> Flight | None:
        return self._waiting.get(future) or self._running.get(future)

    def oldest(self, internal_id: str, pod: str) -> Flight | None:
        """Of those of a request that went to this pod."""
        return next((one for one in self._by_id.get(internal_id, ()) if one.pod == pod), None)

    def undecided(self, metadata: RequestMetadata) -> Flight | None:
        """The one that still looks for its replica, of the call with this very metadata."""
        found = self._by_id.get(metadata.internal_request_id, ())
        return next(
            (one for one in found if one.pending.metadata is metadata and not one.future.done()), None
        )

    def move(self, flight: Flight, pod: str) -> None:
        """It goes to another pod than was meant."""
        self._leave(flight.pod)
        flight.pod = pod
        self._at[pod] += 1

    def routed(self, flight: Flight) -> None:
        """Its replica has taken it."""
        flight.is_routed = True
        if self._waiting.pop(flight.future, None) is not None:
            self._running[flight.future] = flight

    def end(self, flight: Flight) -> None:
        """Twice is fine."""
        if self._waiting.pop(flight.future, None) is None and self._running.pop(flight.future, None) is None:
            return
        others = self._by_id[flight.internal_id]
        others.remove(flight)
        if not others:
            del self._by_id[flight.internal_id]
        self._leave(flight.pod)
        self._names.discard(flight.request_id)

    def overdue(self) -> list[Flight]:
        """Those that should end now: no sign for too long, or too many. Costs what it finds."""
        found = []
        too_old_s = self._clock_s() - self._unrouted_s
        excess = len(self) - self._flights_max
        for flight in self._waiting.values():
            if flight.began_s > too_old_s and excess <= 0:
                break
            found.append(flight)
            excess -= 1
        for flight in self._running.values():
            if excess <= 0:
                break
            found.append(flight)
            excess -= 1
        return found

    def _leave(self, pod: str) -> None:
        self._at[pod] -= 1
        if not self._at[pod]:
            del self._at[pod]
