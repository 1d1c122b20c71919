"""What vLLM is told of a store: metrics and events, in its own types. Loaded inside vLLM only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vllm.distributed.kv_transfer.kv_connector.v1.offloading.metrics import OffloadingConnectorStats
from vllm.v1.kv_offload.base import (
    Locality,
    Medium,
    OffloadingCounterMetadata,
    OffloadingEvent,
    OffloadingGaugeMetadata,
    OffloadingMetricMetadata,
    OffloadKey,
)

from kvatlas.offload.storing.announcements import Announcement
from kvatlas.offload.storing.metrics import COUNTERS, GAUGES, counts_of, gauges_of
from kvatlas.offload.storing.storage import Storage

_EVENT_KEYS_MAX = 1024


def metric_definitions() -> dict[str, OffloadingMetricMetadata]:
    """All metrics of ours, by name; their labels are those of `kvatlas.offload.storing.metrics`."""
    definitions: dict[str, OffloadingMetricMetadata] = {}
    for name, metric in COUNTERS.items():
        definitions[name] = OffloadingCounterMetadata(documentation=metric.text, labelnames=metric.labels)
    for name, metric in GAUGES.items():
        definitions[name] = OffloadingGaugeMetadata(documentation=metric.text, labelnames=metric.labels)
    return definitions


class Reporter:
    """Counters of a storage as vLLM wants them: what was added since the last report."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._told: dict[tuple[str, tuple[str, ...]], float] = {}

    def stats(self) -> OffloadingConnectorStats:
        """Counts since the last call, and gauges as they are now."""
        stats, figures = OffloadingConnectorStats(), self._storage.statistics()
        for (name, labels), total in counts_of(figures).items():
            added = total - self._told.get((name, labels), 0)
            if added:
                self._told[name, labels] = total
                stats.increase_counter(name, added, labels)
        for (name, labels), value in gauges_of(figures).items():
            stats.set_gauge(name, value, labels)
        return stats


def offloading_events(
    announcements: Iterable[Announcement], locality: Locality | None, store: str
) -> Iterator[OffloadingEvent]:
    """The announcements as events of the engine's own stream.

    They do not promise a removal: vLLM would keep each chunk's tokens until it came, and of a file that
    another process evicts it never comes.
    """
    for announcement in announcements:
        keys = announcement.keys
        for at in range(0, len(keys), _EVENT_KEYS_MAX):
            yield OffloadingEvent(
                keys=[OffloadKey(key) for key in keys[at : at + _EVENT_KEYS_MAX]],
                medium=Medium.STORAGE,
                removed=announcement.is_removal,
                locality=locality,
                ownership=store,
            )
