"""What vLLM is told of a store: metrics and events, in its own types. Loaded inside vLLM only."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

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
from kvatlas.offload.storing.metrics import COUNTERS, GAUGES, counter_series, gauges_of
from kvatlas.offload.storing.storage import Storage

_EVENT_KEYS_MAX = 1024
_GAUGES_S = 0.25


def metric_definitions() -> dict[str, OffloadingMetricMetadata]:
    """All metrics of ours, by name; their labels are those of `kvatlas.offload.storing.metrics`."""
    definitions: dict[str, OffloadingMetricMetadata] = {}
    for name, metric in COUNTERS.items():
        definitions[name] = OffloadingCounterMetadata(documentation=metric.text, labelnames=metric.labels)
    for name, metric in GAUGES.items():
        definitions[name] = OffloadingGaugeMetadata(documentation=metric.text, labelnames=metric.labels)
    return definitions


class Reporter:
    """Counters of a storage as vLLM wants them: what was added since the last report.

    vLLM asks at each step, while the device may wait. Counters are always told at once; gauges, which
    cost more, every `_GAUGES_S` while jobs are under way, and in all steps from the last job's end to when
    nothing is left to take in or to tell: the engine may sleep after any of these.
    """

    def __init__(self, storage: Storage, clock: Callable[[], float] = time.monotonic) -> None:
        self._storage, self._clock = storage, clock
        self._series = counter_series(storage.settings.name)
        self._told: dict[str, float] = dict.fromkeys(self._series, 0)
        self._gauges_due_s = clock()
        self._was_busy = False

    def stats(self) -> OffloadingConnectorStats | None:
        """Counts since the last call, and gauges where they are due; None: there is nothing to tell."""
        stats = OffloadingConnectorStats()
        counters, told = self._storage.counters(), self._told
        for figure, (name, labels) in self._series.items():
            total = counters[figure]
            if total != told[figure]:
                stats.increase_counter(name, total - told[figure], labels)
                told[figure] = total
        is_busy, now_s = self._storage.is_busy, self._clock()
        may_sleep = not self._storage.is_moving and (is_busy or self._was_busy)
        if may_sleep or now_s >= self._gauges_due_s:
            self._gauges_due_s = now_s + _GAUGES_S
            for (name, labels), value in gauges_of(self._storage.statistics()).items():
                stats.set_gauge(name, value, labels)
        self._was_busy = is_busy
        return None if stats.is_empty() else stats


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
