"""An OffloadingConnector whose engine survives a failed load: the request computes what did not arrive.

    {"kv_connector": "KvatlasConnector", "kv_connector_module_path": "kvatlas.offload.connector",
     "kv_role": "kv_both", "kv_load_failure_policy": "recompute", "kv_connector_extra_config": {...}}

With vLLM's own connector a load that fails ends the engine. Here the blocks of such a load are reported as
not loaded, in the same step as its end. Where a model has several cache groups a block's number does not
say whose it is, and its request is reported instead; vLLM 0.29 cannot be told that, and ends. Loaded inside
vLLM only.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from vllm.config import VllmConfig
from vllm.distributed.kv_transfer.kv_connector.v1 import base
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.common import OffloadingConnectorMetadata
from vllm.distributed.kv_transfer.kv_connector.v1.offloading_connector import OffloadingConnector
from vllm.logger import init_logger
from vllm.v1.kv_cache_interface import KVCacheConfig

from kvatlas.offload.window.worker import CopyingWorker

if TYPE_CHECKING:
    import torch

logger = init_logger(__name__)

_CAN_FAIL_REQUESTS = hasattr(base, "KVConnectorTransferResults")  # not in 0.29


class KvatlasConnector(OffloadingConnector):
    """OffloadingConnector with KvatlasOffloadingSpec or KvatlasTieringSpec, and failed loads reported.

    With `kv_load_failure_policy: recompute` a request whose load fails computes; with `fail`, vLLM's
    default, it gets an error.
    """

    def __init__(
        self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig
    ) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._names_blocks = len(kv_cache_config.kv_cache_groups) == 1
        self._load_of_request: dict[str, int] = {}
        self._failed_blocks: set[int] = set()
        self._failed_requests: set[str] = set()
        transfer = vllm_config.kv_transfer_config
        if transfer is not None and transfer.kv_load_failure_policy != "recompute":
            logger.warning(
                "kvatlas: kv_load_failure_policy is %r: requests whose load fails get an error",
                transfer.kv_load_failure_policy,
            )

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        super().register_kv_caches(kv_caches)
        worker = self._copying_worker()
        if worker is not None:
            worker.reports_failed_blocks = self._names_blocks or _CAN_FAIL_REQUESTS

    def _copying_worker(self) -> CopyingWorker | None:
        worker = self.connector_worker.worker if self.connector_worker is not None else None
        return worker if isinstance(worker, CopyingWorker) else None

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        metadata = self._connector_metadata
        if isinstance(metadata, OffloadingConnectorMetadata):
            for job, load in metadata.load_jobs.items():
                self._load_of_request[load.req_id] = job
        super().start_load_kv(forward_context, **kwargs)

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str], set[str]]:
        sent, received = super().get_finished(finished_req_ids)
        worker = self._copying_worker()
        failed = worker.take_failed_loads() if worker is not None else {}
        for request in received:
            blocks = failed.get(self._load_of_request.pop(request, -1))
            if blocks is None:
                continue
            if self._names_blocks:
                self._failed_blocks.update(blocks.tolist())
            else:
                self._failed_requests.add(request)
        return sent, received

    def get_block_ids_with_load_errors(self) -> set[int]:
        failed, self._failed_blocks = self._failed_blocks, set()
        return failed

    if _CAN_FAIL_REQUESTS:

        def get_transfer_results(self, finished_req_ids: set[str]) -> base.KVConnectorTransferResults:
            results = super().get_transfer_results(finished_req_ids)
            failed, self._failed_requests = self._failed_requests, set()
            return dataclasses.replace(results, failed_recving=results.failed_recving | failed)
