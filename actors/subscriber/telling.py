"""What the directory is told of the workers: nothing better than what the shards have been given."""

from __future__ import annotations

from typing import Protocol

import msgspec

from kvatlas.index.view import FleetPart, WorkerView
from kvatlas.ingest.stream.truth import STATES

_ON_ITS_WAY = "what it holds is on its way to the shards"
_UNTOLD = "BLIND"
_RANK = {state: rank for rank, state in enumerate(STATES)}

WorkerName = tuple[str, str, int]


class Delivery(Protocol):
    """How far the shards are: an `Outbox`."""

    def mark(self) -> int: ...
    def has_delivered(self, mark: int) -> bool: ...


class Telling:
    """Holds a worker's better state back until its blocks have arrived; a worse one is told at once.

    Else a reader could be told that a worker is EXACT before it can see the worker's blocks. One thread
    at a time. Invariant: a state told was true of all that had been delivered by then, or is worse.
    """

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._delivered: dict[WorkerName, str] = {}
        """States whose blocks have arrived."""
        self._awaited: tuple[dict[WorkerName, str], int] | None = None
        """States as they were at a mark of the delivery."""
        self.holds_back = False
        """Some state was told worse than it is."""

    def of(self, part: FleetPart) -> FleetPart:
        """The part as it may be told now."""
        states = {_name(worker): worker.state for worker in part.workers}
        if self._awaited is not None and self._delivery.has_delivered(self._awaited[1]):
            self._delivered, self._awaited = self._awaited[0], None
        if self._awaited is None and states != self._delivered:
            self._awaited = states, self._delivery.mark()
        workers = tuple(self._told(worker) for worker in part.workers)
        self.holds_back = workers != part.workers
        return msgspec.structs.replace(part, workers=workers) if self.holds_back else part

    def _told(self, worker: WorkerView) -> WorkerView:
        state = self._delivered.get(_name(worker), _UNTOLD)
        if _RANK[state] <= _RANK[worker.state]:  # type: ignore[index]
            return worker
        return msgspec.structs.replace(worker, state=state, doubts=(_ON_ITS_WAY, *worker.doubts))


def _name(worker: WorkerView) -> WorkerName:
    return worker.model, worker.pod, worker.rank
