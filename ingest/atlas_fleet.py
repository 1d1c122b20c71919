"""The workers of an embedded atlas, as the code that reads wants to know them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from kvatlas.index.view import WorkerView
from kvatlas.ingest.fleet_mirror import FleetMirror
from kvatlas.ingest.fleet_views import store_names, view_of


class AtlasFleet:
    """A fleet that is being written while it is read (`kvatlas.index.reading.Fleet`)."""

    def __init__(self, mirror: FleetMirror) -> None:
        fleet = mirror.fleet
        self.models = fleet.models
        self.names = fleet.names
        self.truths = fleet.truths
        self.lane_names = fleet.lane_names
        self._fleet = fleet
        self._lock = mirror.lock

    @property
    def store_lanes(self) -> Mapping[str, int]:
        """Waits for the end of a batch, as `views` does: both are for people."""
        with self._lock:
            return {name: lane for lane, name in store_names(self._fleet).items()}

    def allowed(self, model: str, pods: Iterable[str] | None) -> bytearray:
        """One byte a worker number: 1 for the model's workers, of these pods where given."""
        state = self.models.get(model)
        return self._fleet.allowed(state, pods) if state is not None else bytearray()

    def views(self, model: str) -> Sequence[WorkerView]:
        """The model's workers."""
        with self._lock:
            state = self.models.get(model)
            names = store_names(self._fleet)
            return [view_of(worker, names) for worker in state.workers.values()] if state else []
