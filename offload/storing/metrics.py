"""The metrics of a store: names, words, how statistics become values. Knows neither vLLM nor Prometheus."""

from __future__ import annotations

import msgspec

from kvatlas.offload.storing.figures import StorageStatistics

Labels = tuple[str, ...]


class Metric(msgspec.Struct, frozen=True):
    """What is said of a metric, and its label names."""

    text: str
    labels: Labels = ("store",)


COUNTERS = {
    "kvatlas_offload_lookups": Metric("Chunks looked up, by what was answered.", ("store", "answer")),
    "kvatlas_offload_probes": Metric("Chunks that the store was asked for."),
    "kvatlas_offload_stored_chunks": Metric("Chunks written."),
    "kvatlas_offload_stored_bytes": Metric("Bytes written."),
    "kvatlas_offload_store_seconds": Metric("Time of store jobs, queue included."),
    "kvatlas_offload_loaded_chunks": Metric("Chunks read and verified."),
    "kvatlas_offload_loaded_bytes": Metric("Bytes read and verified."),
    "kvatlas_offload_load_seconds": Metric("Time of load jobs, queue included."),
    "kvatlas_offload_dropped_chunks": Metric("Chunks never asked of the store, by why.", ("store", "reason")),
    "kvatlas_offload_failures": Metric("Chunks that the store has failed at, by how.", ("store", "reason")),
    "kvatlas_offload_removed_chunks": Metric("Chunks that this process has evicted."),
    "kvatlas_offload_inventory_chunks": Metric("Chunks found at start."),
    "kvatlas_offload_times_down": Metric("Times that the store's breaker opened."),
    "kvatlas_offload_unannounced_chunks": Metric("Chunks never announced, for too many waited to be."),
}

GAUGES = {
    "kvatlas_offload_down": Metric("1: the store does not answer, serving goes on without it."),
    "kvatlas_offload_not_writable": Metric("1: the store is full or read-only, it is still read."),
    "kvatlas_offload_write_queue_bytes": Metric("Bytes that wait to be written or are being written."),
    "kvatlas_offload_write_bytes_per_second": Metric("Rate of writing, as measured for the write budget."),
    "kvatlas_offload_jobs": Metric("Jobs under way."),
    "kvatlas_offload_known_chunks": Metric("Chunks known to be in the store."),
    "kvatlas_offload_used_bytes": Metric("Bytes of the whole store, where a cap is set."),
    "kvatlas_offload_hung_chunks": Metric("Chunks given up that a thread still waits for the store with."),
}

_SINGLE = {
    "kvatlas_offload_probes": "probes",
    "kvatlas_offload_stored_chunks": "stored",
    "kvatlas_offload_stored_bytes": "stored_bytes",
    "kvatlas_offload_store_seconds": "store_s",
    "kvatlas_offload_loaded_chunks": "loaded",
    "kvatlas_offload_loaded_bytes": "loaded_bytes",
    "kvatlas_offload_load_seconds": "load_s",
    "kvatlas_offload_removed_chunks": "removed",
    "kvatlas_offload_inventory_chunks": "inventory",
    "kvatlas_offload_times_down": "times_down",
    "kvatlas_offload_unannounced_chunks": "announcements_dropped",
}
_BY_LABEL = {
    "kvatlas_offload_lookups": {
        "present": "lookups_present",
        "absent": "lookups_absent",
        "asked": "lookups_asked",
        "down": "lookups_down",
    },
    "kvatlas_offload_dropped_chunks": {
        "budget": "dropped_budget",
        "down": "dropped_down",
        "capacity": "dropped_capacity",
        "queue": "dropped_queue",
        "foreign_key": "foreign_keys",
    },
    "kvatlas_offload_failures": {
        "corrupt": "corrupt",
        "failed": "failed",
        "timed_out": "timed_out",
        "no_space": "no_space",
        "read_only": "read_only",
        "cancelled": "cancelled",
        "gone": "gone",
    },
}


def counter_series(store: str) -> dict[str, tuple[str, Labels]]:
    """A figure of `StorageStatistics.counters` -> name and label values of what it is told as."""
    series: dict[str, tuple[str, Labels]] = {figure: (name, (store,)) for name, figure in _SINGLE.items()}
    for name, by_label in _BY_LABEL.items():
        series.update({figure: (name, (store, label)) for label, figure in by_label.items()})
    return series


def gauges_of(figures: StorageStatistics) -> dict[tuple[str, Labels], float]:
    """(name, label values) -> value now."""
    at: Labels = (figures.name,)
    return {
        ("kvatlas_offload_down", at): float(figures.is_down),
        ("kvatlas_offload_not_writable", at): float(not figures.takes_writes),
        ("kvatlas_offload_write_queue_bytes", at): figures.write_queue_bytes,
        ("kvatlas_offload_write_bytes_per_second", at): figures.write_bytes_per_s,
        ("kvatlas_offload_jobs", at): figures.jobs,
        ("kvatlas_offload_known_chunks", at): figures.catalogue.get("present", 0),
        ("kvatlas_offload_used_bytes", at): figures.backend.get("used_bytes", 0),
        ("kvatlas_offload_hung_chunks", at): figures.backend.get("hung", 0),
    }
