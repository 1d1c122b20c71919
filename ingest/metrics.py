"""An atlas's figures for Prometheus: read when they are scraped, so that nothing is paid in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kvatlas.ingest.atlas import Atlas
from kvatlas.ingest.atlas_statistics import AtlasStatistics, WorkerStatistics
from kvatlas.ingest.stream.truth import STATES

if TYPE_CHECKING:
    from kvatlas.ingest.server_home import IndexStatus

_WORKER = ("model", "pod", "rank")


class AtlasCollector(Collector):
    """Register it: `prometheus_client.REGISTRY.register(AtlasCollector(atlas))`.

    Names and labels are in docs/ingest.md. A scrape takes the atlas's statistics once: some tens of
    microseconds a worker.
    """

    def __init__(self, atlas: Atlas) -> None:
        self._atlas = atlas

    def collect(self) -> Iterable[Metric]:
        statistics = self._atlas.statistics()
        yield from _fleet(statistics)
        index = self._atlas.index_status()
        if index is not None:
            yield from _server(index)
        yield from _workers(statistics.workers)


def _fleet(statistics: AtlasStatistics) -> Iterator[Metric]:
    states = Counter((worker.model, worker.truth.state) for worker in statistics.workers)
    by_state = GaugeMetricFamily("kvatlas_workers", "Workers by state.", labels=("model", "state"))
    for model in statistics.models:
        for state in STATES:
            by_state.add_metric((model, state), states[model, state])
    yield by_state
    yield _counter(
        "kvatlas_truth_transitions", "Changes of workers' states.", "change", statistics.transitions
    )
    yield _counter("kvatlas_events", "Events and blocks applied, batches.", "kind", statistics.events)
    yield _counter("kvatlas_skips", "What was not applied as it came.", "reason", statistics.skips)
    tables = statistics.tables
    yield GaugeMetricFamily("kvatlas_blocks", "Distinct blocks in the tables.", value=statistics.blocks)
    table_bytes = sum(table["bytes"] for table in tables)
    yield GaugeMetricFamily("kvatlas_table_bytes", "Bytes of the tables.", value=table_bytes)
    dropped = sum(table["dropped_entries"] + table["dropped_adds"] for table in tables)
    yield CounterMetricFamily("kvatlas_dropped_blocks", "Blocks dropped at the byte budget.", value=dropped)
    stored = GaugeMetricFamily("kvatlas_store_blocks", "Engine blocks by store.", labels=("store",))
    for store, blocks in statistics.stores.items():
        stored.add_metric((store,), blocks)
    yield stored
    files = GaugeMetricFamily(
        "kvatlas_store_files", "Files by store, and whether they wait.", labels=("store", "state")
    )
    for store, told in statistics.files.items():
        files.add_metric((store, "waiting"), told.waiting)
        files.add_metric((store, "placed"), told.files - told.waiting)
    yield files


def _server(index: IndexStatus) -> Iterator[Metric]:
    """Of an index in a server, shared by all who write and read it: do not add up processes."""
    reached = int(index.writer.is_reached and index.reader.is_reached)
    yield GaugeMetricFamily("kvatlas_server_reached", "Whether the index server answers.", value=reached)
    waiting = index.writer.waiting_bytes
    yield GaugeMetricFamily("kvatlas_server_waiting_bytes", "Changes not written yet.", value=waiting)
    held = index.reader.server
    if held is None:
        return
    yield GaugeMetricFamily("kvatlas_server_blocks", "Distinct blocks in the server.", value=held.blocks)
    dropped = {"budget": held.evicted, "lifetime": held.expired}
    yield _counter("kvatlas_server_dropped_blocks", "Blocks dropped by its bounds.", "why", dropped)
    vanished = held.vanished_segments
    yield CounterMetricFamily(
        "kvatlas_server_vanished_segments", "Segments that the server removed itself.", value=vanished
    )


def _workers(workers: tuple[WorkerStatistics, ...]) -> Iterator[Metric]:
    blocks = GaugeMetricFamily("kvatlas_worker_blocks", "Engine blocks held.", labels=(*_WORKER, "tier"))
    mirror_bytes = GaugeMetricFamily("kvatlas_mirror_bytes", "Bytes of the mirror.", labels=_WORKER)
    buffered = GaugeMetricFamily(
        "kvatlas_buffered_bytes", "Live batches that wait for the end of a replay.", labels=_WORKER
    )
    lag = GaugeMetricFamily("kvatlas_lag_seconds", "From a batch's making to its coming.", labels=_WORKER)
    age = GaugeMetricFamily("kvatlas_age_seconds", "Since the last live batch.", labels=_WORKER)
    stream = CounterMetricFamily(
        "kvatlas_stream", "What the worker's stream has counted.", labels=(*_WORKER, "what")
    )
    batches = CounterMetricFamily("kvatlas_batches", "Batches applied.", labels=_WORKER)
    for worker in workers:
        labels = (worker.model, worker.pod, str(worker.rank))
        for tier, n in worker.blocks.items():
            blocks.add_metric((*labels, tier), n)
        mirror_bytes.add_metric(labels, worker.mirror_bytes)
        buffered.add_metric(labels, worker.buffered_bytes)
        batches.add_metric(labels, worker.batches)
        for what, n in worker.stream.items():
            stream.add_metric((*labels, what), n)
        if worker.lag.seconds is not None:
            lag.add_metric(labels, worker.lag.seconds)
        if worker.age_s is not None:
            age.add_metric(labels, worker.age_s)
    yield from (blocks, mirror_bytes, buffered, lag, age, stream, batches)


def _counter(name: str, says: str, label: str, values: dict[str, int]) -> Metric:
    family = CounterMetricFamily(name, says, labels=(label,))
    for value, n in values.items():
        family.add_metric((value,), n)
    return family
