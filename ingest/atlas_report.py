"""Makes an atlas's statistics from what it keeps."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from kvatlas.ingest.atlas_statistics import AtlasStatistics, StoreStatistics, WorkerStatistics
from kvatlas.ingest.fleet_state import FleetState
from kvatlas.ingest.worker_state import StoreState, WorkerState

_APPLIED = (
    "events_stored",
    "events_removed",
    "events_cleared",
    "blocks_stored",
    "blocks_removed",
    "orphaned",
    "orphans_stitched",
    "inventories",
)
"""Counts of a mirror that are no skips."""
_STREAM = ("batches", "refused_payloads")
_NO_MIRROR: dict[str, Any] = dict.fromkeys(("held_gpu", "held_cpu", "ghosts", "orphans", "bytes"), 0)


def report(
    fleet: FleetState,
    tables: tuple[dict[str, Any], ...],
    counts: Counter[str],
    transitions: Counter[str],
    now_s: float,
) -> AtlasStatistics:
    """All of it at one moment; the caller holds the atlas's write lock."""
    totals = Counter(fleet.retired)
    workers = list(fleet.workers())
    for worker in workers:
        if worker.mirror is not None:
            totals.update(worker.mirror.counts())
    totals.update(counts)
    totals["block_size_changed"] += fleet.block_size_changes
    events = {name: totals.pop(name, 0) for name in (*_APPLIED, *_STREAM)}
    return AtlasStatistics(
        workers=tuple(_worker(worker, now_s) for worker in workers if worker.announces is None),
        announcers=tuple(_worker(worker, now_s) for worker in workers if worker.announces is not None),
        transitions=dict(transitions),
        models={name: state.block_size or None for name, state in fleet.models.items()},
        stores={
            name: len(store.native) for state in fleet.models.values() for name, store in state.stores.items()
        },
        files={
            name: _store(store) for state in fleet.models.values() for name, store in state.stores.items()
        },
        blocks=sum(table["entries"] for table in tables),
        events=events,
        skips=dict(sorted(totals.items())),
        tables=tables,
    )


def _store(store: StoreState) -> StoreStatistics:
    return StoreStatistics(**store.native.statistics())


def _worker(worker: WorkerState, now_s: float) -> WorkerStatistics:
    worker.observe()
    stream = worker.stream
    sizes = worker.mirror.sizes() if worker.mirror is not None else _NO_MIRROR
    return WorkerStatistics(
        pod=worker.pod,
        rank=worker.rank,
        model=worker.model,
        truth=worker.truth.report(),
        blocks={"gpu": sizes["held_gpu"], "cpu": sizes["held_cpu"]},
        groups=tuple(sorted(worker.groups)),
        stores=tuple(sorted(worker.stores)),
        closed=sizes.get("closed", False),
        ghosts=sizes["ghosts"],
        orphans=sizes["orphans"],
        mirror_bytes=sizes["bytes"],
        batches=worker.batches,
        sequence=stream.last,
        gaps=stream.counts["gaps"],
        missed_batches=stream.counts["missed"],
        restarts=stream.counts["restarts"],
        repeated_batches=stream.counts["repeated"],
        replays=stream.counts["replays"],
        replays_failed=stream.counts["replays_failed"],
        stream=dict(stream.counts) | {"buffer_dropped": stream.buffer.dropped},
        buffered_batches=len(stream.buffer),
        buffered_bytes=stream.buffer.n_bytes,
        last_event_ts=worker.last_event_ts,
        age_s=None if math.isinf(stream.heard_s) else now_s - stream.heard_s,
        lag=worker.lag.report(),
        predictions=worker.agreement.compared,
        predictions_wrong=worker.agreement.wrong,
    )
