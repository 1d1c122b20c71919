"""The workers of an embedded atlas, as the code that reads wants to know them."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kvatlas.index.claims import Claim
from kvatlas.index.scores import Worker
from kvatlas.index.view import WorkerView, is_heard, name_of
from kvatlas.ingest.atlas_dump import AtlasGuests, LaneName
from kvatlas.ingest.fleet_mirror import FleetMirror
from kvatlas.ingest.fleet_views import store_names, view_of


class AtlasFleet:
    """A fleet that is being written while it is read (`kvatlas.index.reading.Fleet`)."""

    def __init__(self, mirror: FleetMirror, guests: AtlasGuests) -> None:
        self.models = mirror.fleet.models
        self._fleet = mirror.fleet
        self._guests = guests
        self._lock = mirror.lock

    # What is heard, and beside it what a dump says of others; without one the fleet's own maps are fastest.

    @property
    def names(self) -> Mapping[int, Worker]:
        return _both(self._fleet.names, self._guests.shown.names)

    @property
    def truths(self) -> Mapping[int, Claim]:
        return _both(self._fleet.truths, self._guests.shown.truths)

    @property
    def lane_names(self) -> Mapping[int, LaneName]:
        return _both(self._fleet.lane_names, self._guests.shown.lane_names)

    @property
    def store_lanes(self) -> Mapping[str, int]:
        """Waits for the end of a batch, as `views` does: both are for people."""
        with self._lock:
            own = {name: lane for lane, name in store_names(self._fleet).items()}
            return {**self._guests.shown.part.stores, **own}

    def allowed(self, model: str, pods: Iterable[str] | None) -> bytearray:
        """One byte a worker number: 1 for the model's workers, of these pods where given."""
        wanted = None if pods is None else {pods} if isinstance(pods, str) else set(pods)
        state = self.models.get(model)
        mask = self._fleet.allowed(state, wanted) if state is not None else bytearray()
        for view in self._guests.shown.part.workers:
            if view.model == model and (wanted is None or view.pod in wanted):
                mask.extend(bytes(max(0, view.number + 1 - len(mask))))
                mask[view.number] = 1
        return mask

    def views(self, model: str) -> Sequence[WorkerView]:
        """The model's workers."""
        with self._lock:
            state = self.models.get(model)
            names = store_names(self._fleet)
            workers = state.workers.values() if state else ()
            own = [view_of(worker, names) for worker in workers if worker.announces is None]
        shown = {name_of(view): view for view in self._guests.shown.part.workers if view.model == model}
        return [*(view for view in own if is_heard(view) or name_of(view) not in shown), *shown.values()]


def _both(own: Mapping[int, Any], shown: Mapping[int, Any]) -> Mapping[int, Any]:
    return ChainMap(own, shown) if shown else own  # type: ignore[arg-type]
