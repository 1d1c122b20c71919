"""The metrics of a window: names, words, and which statistic each one is. Knows neither vLLM nor
Prometheus.
"""

from __future__ import annotations

import msgspec

from kvatlas.offload.window.figures import WindowStatistics


class WindowMetric(msgspec.Struct, frozen=True):
    """A metric without labels; `statistic` is a field of WindowStatistics, or of its slots."""

    text: str
    statistic: str
    is_counter: bool = True


METRICS = {
    "kvatlas_offload_window_hits": WindowMetric("Chunks found in the window, by request and step.", "hits"),
    "kvatlas_offload_window_evicted_chunks": WindowMetric(
        "Chunks that left the window for others.", "slots.evicted"
    ),
    "kvatlas_offload_window_refused_stores": WindowMetric(
        "Chunks that found no room in the window.", "refused_stores"
    ),
    "kvatlas_offload_window_postponed_loads": WindowMetric(
        "Times that a wanted chunk found no room.", "postponed_loads"
    ),
    "kvatlas_offload_window_cut_lookups": WindowMetric(
        "Lookups beyond a request's share of the window.", "cut_lookups"
    ),
    "kvatlas_offload_requests_gave_up": WindowMetric(
        "Requests that waited too long for storage, and computed.", "gave_up"
    ),
    "kvatlas_offload_failed_device_loads": WindowMetric(
        "Copies to the device that failed.", "failed_device_loads"
    ),
    "kvatlas_offload_failed_device_stores": WindowMetric(
        "Copies from the device that failed.", "failed_device_stores"
    ),
    "kvatlas_offload_window_unannounced_chunks": WindowMetric(
        "Chunks of the window never announced.", "dropped_changes"
    ),
    "kvatlas_offload_window_slots": WindowMetric("Slots of the window.", "slots.slots", is_counter=False),
    "kvatlas_offload_window_ready": WindowMetric(
        "Slots with chunks that can be loaded.", "slots.ready", is_counter=False
    ),
    "kvatlas_offload_window_pinned": WindowMetric(
        "Of these, kept for transfers and requests.", "slots.pinned", is_counter=False
    ),
    "kvatlas_offload_window_loading": WindowMetric(
        "Chunks on their way from storage.", "loading", is_counter=False
    ),
    "kvatlas_offload_window_writing": WindowMetric(
        "Chunks on their way to storage.", "writing", is_counter=False
    ),
    "kvatlas_offload_waiting_requests": WindowMetric(
        "Requests that wait for storage.", "waiting", is_counter=False
    ),
}


def values_of(statistics: WindowStatistics) -> dict[str, float]:
    """The value of each metric; of counters, since the start."""
    values: dict[str, float] = {}
    for name, metric in METRICS.items():
        part, _, field = metric.statistic.rpartition(".")
        values[name] = getattr(getattr(statistics, part) if part else statistics, field)
    return values
