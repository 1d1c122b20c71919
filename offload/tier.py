"""A store of KV files as a secondary tier of vLLM's TieringOffloadingSpec: vLLM owns the rows, we move them.

    {"type": "KvatlasTier", "module_path": "kvatlas.offload.tier", "root": "/mnt/kv", "name": "fleet", ...}

Loaded by vLLM's engine core, and by its API server for the metrics' definitions. vLLM 0.29 and 0.32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from typing import Any, ClassVar

import numpy as np
import vllm
from vllm.platforms import current_platform
from vllm.v1.core import kv_cache_utils
from vllm.v1.kv_offload.base import (
    Locality,
    LookupResult,
    Medium,
    OffloadingEvent,
    OffloadingMetricMetadata,
    OffloadKey,
    ReqContext,
    RequestOffloadingContext,
    ScheduleEndContext,
)
from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager, TransferJob

from kvatlas.index.errors import StoreError
from kvatlas.offload.layout.device import device_name, numa_node_of_all
from kvatlas.offload.layout.fingerprint import from_offloading_config
from kvatlas.offload.layout.hashing import check_hashing, hash_scheme
from kvatlas.offload.storing.opening import open_storage
from kvatlas.offload.storing.reporting import Reporter, metric_definitions, offloading_events
from kvatlas.offload.storing.settings import parse_settings
from kvatlas.offload.storing.storage import Done

_SAYS_BYTES = "transfer_bytes" in {field.name for field in dataclasses.fields(JobResult)}  # not in 0.29
_DRAIN_GRACE_S = 1.0


class KvatlasTier(SecondaryTierManager):
    """Moves chunks between vLLM's CPU tier and a store. A promotion that fails is a miss: vLLM computes."""

    medium: ClassVar[Medium] = Medium.STORAGE

    def __init__(
        self,
        offloading_spec: Any,
        primary_kv_view: memoryview,
        tier_type: str,
        backpressure_detector: Any = None,
        **options: Any,
    ) -> None:
        """The options are those of `StorageSettings`.

        Raises ConfigError, and StoreError for a store that cannot be used.
        """
        more = () if backpressure_detector is None else (backpressure_detector,)  # 0.29 does not know it
        super().__init__(offloading_spec, primary_kv_view, tier_type, *more)
        settings = parse_settings(options, f"secondary_tiers.{tier_type}")
        self.locality = Locality(settings.locality) if settings.locality is not None else None
        assert primary_kv_view.strides is not None
        self._hashing = hash_scheme(settings.hash_algorithm)
        fields = from_offloading_config(
            offloading_spec.config,
            row_bytes=primary_kv_view.strides[0],
            hashing=self._hashing,
            engine_version=settings.engine_version or vllm.__version__,
            device=settings.device or device_name(current_platform),
            revision=settings.revision,
        )
        self._tells_engine = (
            settings.events == "engine" and offloading_spec.kv_events_config.enable_kv_cache_events
        )
        self._storage = open_storage(
            settings,
            fields,
            primary_kv_view,
            tells_engine=self._tells_engine,
            data_parallel_rank=offloading_spec.config.parallel.data_parallel_index,
            numa_node=numa_node_of_all(current_platform),
        )
        # vLLM asks a chunk at a time, from Python: found here, the method below costs it no frame more.
        self._answer = self._storage.lookups.answering(
            present=LookupResult.HIT, absent=LookupResult.MISS, asked=LookupResult.RETRY
        )
        setattr(self, "lookup", self._answer)  # noqa: B010 - the type of a method
        self._store_name = self._storage.settings.name
        self._reporter = Reporter(self._storage)
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
        return self._answer(key, req_context)

    def submit_store(self, job_metadata: TransferJob) -> None:
        self._storage.store(job_metadata.job_id, list(job_metadata.keys), _rows_of(job_metadata))

    def submit_load(self, job_metadata: TransferJob) -> None:
        self._storage.load(job_metadata.job_id, list(job_metadata.keys), _rows_of(job_metadata))

    def get_finished_jobs(self) -> Iterable[JobResult]:
        return [_result_of(done) for done in self._storage.finished()]

    def has_pending_work(self) -> bool:
        return self._storage.is_busy

    def take_events(self) -> Iterable[OffloadingEvent]:
        if self._tells_engine:
            yield from offloading_events(self._storage.take_announcements(), self.locality, self._store_name)

    def touch(self, keys: Collection[OffloadKey], req_context: ReqContext) -> None:
        self._storage.touch(list(keys))

    def on_request_finished(self, req_context: ReqContext) -> None:
        # vLLM 0.32 touches nothing, and asks a tier only for what the CPU does not hold: a prefix that is
        # always at hand would look idle here. A request's context has what it was made of, but not in 0.29.
        keys = getattr(req_context, "_offload_key_positions", None)
        if keys:
            self._storage.touch(list(keys))

    def on_schedule_end(self, context: ScheduleEndContext) -> None:
        self._storage.end_step()

    def drain_jobs(self) -> None:
        self._storage.drain(self._storage.settings.time_limit_s + _DRAIN_GRACE_S)

    def shutdown(self) -> None:
        self._storage.close()

    @classmethod
    def build_metric_definitions(cls, extra_config: dict[str, Any]) -> dict[str, OffloadingMetricMetadata]:
        return metric_definitions()

    def get_stats(self) -> Any:
        return self._reporter.stats()


def _rows_of(job: Any) -> np.ndarray[Any, np.dtype[np.int32]]:
    ids = job.chunk_ids if hasattr(job, "chunk_ids") else job.block_ids  # the latter in 0.29
    return np.ascontiguousarray(ids, dtype=np.int32)


def _result_of(done: Done) -> JobResult:
    result: dict[str, Any] = {"job_id": done.job, "success": not done.failed, "transfer_time": done.seconds}
    if done.is_load and done.failed and done.ok:
        result["successful_keys"] = [OffloadKey(key) for key in done.ok]
    if _SAYS_BYTES:
        result["transfer_bytes"] = done.n_bytes
    return JobResult(**result)
