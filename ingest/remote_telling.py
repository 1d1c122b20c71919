"""What readers of a shared index may be told of a writer's workers while not all is there."""

from __future__ import annotations

import msgspec

from kvatlas.index.view import FleetPart, WorkerView
from kvatlas.ingest.stream.truth import STATES, State

_RANK = {state: rank for rank, state in enumerate(STATES)}


def no_better_than(part: FleetPart, state: State, says: str) -> FleetPart:
    """The part with every worker's state lowered to this one, and `says` as the reason."""
    return msgspec.structs.replace(
        part, workers=tuple(_lowered(worker, state, says) for worker in part.workers)
    )


def _lowered(worker: WorkerView, state: State, says: str) -> WorkerView:
    lower = state if _RANK[state] > _RANK[worker.state] else worker.state  # type: ignore[index]
    return msgspec.structs.replace(worker, state=lower, doubts=(says, *worker.doubts))
