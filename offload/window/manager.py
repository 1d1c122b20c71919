"""vLLM's OffloadingManager over a window: its types in, its types out. Loaded inside vLLM's engine core
only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.offloading.metrics import OffloadingConnectorStats
from vllm.v1.core import kv_cache_utils
from vllm.v1.kv_offload.base import (
    LoadStoreSpec,
    Locality,
    LookupResult,
    Medium,
    OffloadingCounterMetadata,
    OffloadingEvent,
    OffloadingGaugeMetadata,
    OffloadingManager,
    OffloadingMetricMetadata,
    OffloadKey,
    PrepareStoreOutput,
    ReqContext,
    RequestOffloadingContext,
    ScheduleEndContext,
)

from kvatlas.index.errors import StoreError
from kvatlas.offload.layout.hashing import HashScheme, check_hashing
from kvatlas.offload.storing.reporting import Reporter, metric_definitions, offloading_events
from kvatlas.offload.storing.storage import Storage
from kvatlas.offload.window.metrics import METRICS, values_of
from kvatlas.offload.window.transfers import Rows
from kvatlas.offload.window.window import Window

_ANSWERS = (LookupResult.MISS, LookupResult.HIT, LookupResult.HIT_PENDING, LookupResult.RETRY)


class WindowRows(LoadStoreSpec):
    """Rows of the window that a job copies from or to [n_chunks], and the ticket of its transfer; goes to
    the workers.
    """

    def __init__(self, rows: Rows, ticket: int) -> None:
        self.rows, self.ticket = rows, ticket


class WindowManager(OffloadingManager):
    """The engine core's side of KvatlasOffloadingSpec."""

    def __init__(self, window: Window, storage: Storage, hashing: HashScheme, *, tells_engine: bool) -> None:
        self._window, self._storage, self._hashing = window, storage, hashing
        locality = storage.settings.locality
        self._locality = None if locality is None else Locality(locality)
        self._tells_store = tells_engine and storage.settings.events == "engine"
        self._look_up = window.lookup
        self._reporter = Reporter(storage)
        self._told: dict[str, float] = {}
        self._is_checked = False

    def on_new_request(self, req_context: ReqContext) -> RequestOffloadingContext:
        if not self._is_checked:  # how vLLM names blocks is known only now
            self._is_checked = True
            try:
                check_hashing(self._hashing, kv_cache_utils)
            except StoreError as error:
                self._storage.shut(str(error))
        return RequestOffloadingContext()

    def lookup(self, key: OffloadKey, req_context: ReqContext) -> LookupResult:
        return _ANSWERS[self._look_up(key, req_context.req_id)]

    def prepare_load(self, keys: Collection[OffloadKey], req_context: ReqContext) -> LoadStoreSpec:
        return WindowRows(*self._window.prepare_load(keys, req_context.req_id))

    def complete_load(self, keys: Collection[OffloadKey], req_context: ReqContext) -> None:
        self._window.complete_load(req_context.req_id)

    def prepare_store(
        self, keys: Collection[OffloadKey], req_context: ReqContext
    ) -> PrepareStoreOutput | None:
        begun = self._window.prepare_store(list(keys))
        if begun is None:
            return None
        return PrepareStoreOutput(
            keys_to_store=_offload_keys(begun.keys),
            store_spec=WindowRows(begun.rows, begun.ticket),
            evicted_keys=_offload_keys(begun.evicted),
        )

    def complete_store(
        self, keys: Collection[OffloadKey], req_context: ReqContext, success: bool = True
    ) -> None:
        self._window.complete_store(keys, succeeded=success)

    def touch(self, keys: Collection[OffloadKey], req_context: ReqContext) -> None:
        self._storage.touch(list(keys))

    def on_request_finished(self, req_context: ReqContext) -> None:
        self._window.forget(req_context.req_id)

    def on_schedule_end(self, context: ScheduleEndContext) -> None:
        self._window.end_step()

    def has_pending_work(self) -> bool:
        return self._window.is_busy

    def take_events(self) -> Iterable[OffloadingEvent]:
        for change in self._window.take_changes():
            keys = _offload_keys(change.keys)
            yield OffloadingEvent(keys=keys, medium=Medium.CPU, removed=change.is_removal)
        if self._tells_store:
            announcements = self._storage.take_announcements()
            yield from offloading_events(announcements, self._locality, self._storage.settings.name)

    def reset_cache(self) -> None:
        self._window.reset()

    def get_stats(self) -> Any:
        stats = self._reporter.stats() or OffloadingConnectorStats()
        for name, value in values_of(self._window.statistics()).items():
            if not METRICS[name].is_counter:
                stats.set_gauge(name, value)
            elif value > self._told.get(name, 0):
                stats.increase_counter(name, value - self._told.get(name, 0))
                self._told[name] = value
        return stats

    def shutdown(self) -> None:
        self._window.close(self._storage.settings.time_limit_s)


def window_metric_definitions() -> dict[str, OffloadingMetricMetadata]:
    """The metrics of a window and of the store behind it, by name."""
    definitions = metric_definitions()
    for name, metric in METRICS.items():
        kind = OffloadingCounterMetadata if metric.is_counter else OffloadingGaugeMetadata
        definitions[name] = kind(documentation=metric.text)
    return definitions


def _offload_keys(keys: Iterable[bytes]) -> list[OffloadKey]:
    return [OffloadKey(key) for key in keys]
