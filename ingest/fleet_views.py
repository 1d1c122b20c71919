"""A fleet as readers are told of it: its workers, their lanes, and what can be claimed of each."""

from __future__ import annotations

from collections import Counter

from kvatlas.index.view import FleetPart, WorkerView
from kvatlas.ingest.fleet_state import FleetState
from kvatlas.ingest.worker_state import WorkerState

StoreNames = dict[int, str]
"""Names of stores by lane, each of another store."""


def view_of(worker: WorkerState, names: StoreNames) -> WorkerView:
    """One worker; the caller holds the write lock."""
    groups, lanes, _ = worker.told
    return WorkerView(
        number=worker.number,
        pod=worker.pod,
        rank=worker.rank,
        model=worker.model,
        groups=tuple(groups),
        stores=tuple(sorted(names[lane] for lane in lanes)),
        chunk_blocks=worker.config.offload_chunk_blocks,
        recomputes_last_block=worker.config.recomputes_last_block,
        drops_matched_block=worker.config.drops_matched_block,
        state=worker.truth.state,
        lacks_extras=worker.truth.lacks_extras,
        doubts=tuple(f"{reason.says} (until {reason.heals})" for reason in worker.truth.reasons),
    )


def store_names(fleet: FleetState) -> StoreNames:
    """A name that stores of two models have gets the model's beside it."""
    stores = [(model, store) for model in fleet.models.values() for store in model.stores.values()]
    times = Counter(store.name for _, store in stores)
    return {
        store.lane: store.name if times[store.name] == 1 else f"{store.name} ({model.name})"
        for model, store in stores
    }


def part_of(fleet: FleetState) -> FleetPart:
    """All of it; the caller holds the write lock."""
    names = store_names(fleet)
    return FleetPart(
        block_sizes={name: model.block_size for name, model in fleet.models.items()},
        workers=tuple(view_of(worker, names) for worker in fleet.workers() if worker.announces is None),
        stores={name: lane for lane, name in names.items()},
    )
