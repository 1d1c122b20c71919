"""vLLM's OffloadingWorker over native copies. Loaded inside vLLM's workers only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from vllm.logger import init_logger
from vllm.v1.kv_offload.base import GPULoadStoreSpec, LoadStoreSpec, OffloadingWorker, TransferResult

from kvatlas.offload.window.copies import Copied, Copies, Numbers, blocks_of

logger = init_logger(__name__)


class CopyingWorker(OffloadingWorker):
    """A worker's side of KvatlasOffloadingSpec and KvatlasTieringSpec.

    vLLM ends the engine when a worker reports a failure. A failed store is not one: it is signed off as
    failed, and the manager forgets the slots. A failed load is, unless somebody takes the blocks that were
    not loaded (KvatlasConnector): then the job is reported as done, and the engine computes these blocks.

    places: of a LoadStoreSpec, the rows and the ticket. survives_stores: whether a failed store may be kept
    from vLLM. release: called at the end, with whether the device has let go of the memory.
    """

    def __init__(
        self,
        copies: Copies,
        places: Callable[[Any], tuple[Numbers, int]],
        *,
        is_cuda: bool,
        survives_stores: bool,
        release: Callable[[bool], None],
    ) -> None:
        self._copies, self._places, self._release = copies, places, release
        self._is_cuda, self._survives_stores = is_cuda, survives_stores
        self.reports_failed_blocks = False
        """Set by who calls take_failed_loads in every step."""
        self._failed_loads: dict[int, Numbers] = {}

    def submit_store(self, job_id: int, src_spec: GPULoadStoreSpec, dst_spec: LoadStoreSpec) -> bool:
        return self._submit(job_id, src_spec, dst_spec, is_load=False)

    def submit_load(self, job_id: int, src_spec: LoadStoreSpec, dst_spec: GPULoadStoreSpec) -> bool:
        return self._submit(job_id, dst_spec, src_spec, is_load=True)

    def _submit(self, job: int, gpu: GPULoadStoreSpec, other: LoadStoreSpec, *, is_load: bool) -> bool:
        rows, ticket = self._places(other)
        blocks = blocks_of(gpu.block_ids, gpu.group_sizes, gpu.block_indices)
        # Copies come after what the stream that computes has to do by now.
        stream = int(torch.cuda.current_stream().cuda_stream) if self._is_cuda else 0
        self._copies.submit(job, blocks, rows, is_load=is_load, ticket=ticket, stream=stream)
        return True

    def get_finished(self) -> list[TransferResult]:
        return [self._result_of(copied) for copied in self._copies.finished()]

    def _result_of(self, copied: Copied) -> TransferResult:
        if copied.is_ok:
            return TransferResult(copied.job, True, copied.n_bytes, copied.seconds)
        kind = "load" if copied.is_load else "store"
        logger.error(
            "kvatlas: a %s of %d blocks has failed: %s", kind, len(copied.block_ids), self._copies.last_error
        )
        if not copied.is_load:
            return TransferResult(copied.job, self._survives_stores)
        if self.reports_failed_blocks:
            self._failed_loads[copied.job] = copied.block_ids
        return TransferResult(copied.job, self.reports_failed_blocks)

    def take_failed_loads(self) -> dict[int, Numbers]:
        """Blocks of the loads that have failed since the last call, by job."""
        failed, self._failed_loads = self._failed_loads, {}
        return failed

    def wait(self, job_ids: set[int]) -> None:
        self._copies.wait(job_ids)

    def shutdown(self) -> None:
        self._release(self._copies.close())
