"""vLLM's offloading without an engine: configuration, specs, its `fs` tier and ours over the same rows.

Imports vLLM: only for a Python that has it (vllm_python.py).
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from vllm.utils.hashing import sha256
from vllm.v1.core import kv_cache_utils
from vllm.v1.kv_offload import base, config
from vllm.v1.kv_offload.tiering.base import TransferJob
from vllm.v1.kv_offload.tiering.fs.manager import FileSystemTierManager
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec

from kvatlas.offload.spec import KvatlasOffloadingSpec
from kvatlas.offload.tier import KvatlasTier

BLOCKS_PER_CHUNK = 16
HIT = base.LookupResult.HIT
_LAYERS = ("layers.0", "layers.1")

kv_cache_utils.init_none_hash(sha256)


def new_keys(n: int) -> list[Any]:
    """Keys as vLLM makes them of sha256 hashes, that nobody has seen before."""
    draw = random.SystemRandom().randbytes
    return [base.make_offload_key(draw(32), 0) for _ in range(n)]


def request(name: str) -> Any:
    return base.ReqContext(req_id=name)


def step_ended() -> Any:
    return base.ScheduleEndContext(new_req_ids=[], preempted_req_ids=[])


def transfer(job: int, keys: list[Any], rows: Any, *, is_load: bool) -> Any:
    return TransferJob(job, keys, rows, is_load, request(f"job-{job}"))


def our_options(root: Path, **options: Any) -> dict[str, Any]:
    """Nothing is dropped, whatever the disk takes: a benchmark fills its queue at once."""
    given = {"write_budget_s": 100.0, "time_limit_s": 120.0, "lease_s": 300.0, "free_bytes_min": 0}
    return {"root": str(root), "name": "bench", "evicts": False, **given, **options}


def our_tier(root: Path, rows: memoryview, **options: Any) -> Any:
    return KvatlasTier(_tiering_spec(rows), rows, "KvatlasTier", **our_options(root, **options))


def fs_tier(root: Path, rows: memoryview, n_threads: int) -> Any:
    """vLLM's, with half of the threads looking at loads first, and half at stores."""
    half = n_threads // 2
    return FileSystemTierManager(
        _tiering_spec(rows), rows, "fs", root_dir=str(root), n_read_threads=half, n_write_threads=half
    )


def tiering_manager(tier: dict[str, Any], n_chunks: int, chunk_bytes: int) -> Any:
    """vLLM's manager over host memory and one tier."""
    extra = {"cpu_bytes_to_use": n_chunks * chunk_bytes, "secondary_tiers": [tier]}
    return TieringOffloadingSpec(offloading_config(extra, chunk_bytes)).get_manager()


def _tiering_spec(rows: memoryview) -> Any:
    assert rows.strides is not None
    extra = {"cpu_bytes_to_use": rows.nbytes, "secondary_tiers": []}
    return TieringOffloadingSpec(offloading_config(extra, rows.strides[0]))


def offloading_config(extra: dict[str, Any], chunk_bytes: int) -> Any:
    return config.OffloadingConfig(
        groups=(config.OffloadingGroupConfig(16, _LAYERS, group_id=0),),
        worker_kv_bytes_per_block=chunk_bytes // BLOCKS_PER_CHUNK,
        enable_kv_cache_events=True,
        extra_config=extra,
        engine_id=f"bench-{random.SystemRandom().getrandbits(64):x}",
        model=config.OffloadingModelConfig("bench/none", "int8"),
        cache=config.OffloadingCacheConfig(16, BLOCKS_PER_CHUNK),
        parallel=config.OffloadingParallelConfig(0, 1, 1, 1, 1, 1, 0, 1, None, True),
        kv_cache_layout="NHD",
    )


class Windowed:
    """KvatlasOffloadingSpec's manager and worker, over a "device" that is host memory."""

    def __init__(self, root: Path, n_chunks: int, chunk_bytes: int) -> None:
        page = chunk_bytes // BLOCKS_PER_CHUNK // len(_LAYERS)
        self.n_blocks = n_chunks * BLOCKS_PER_CHUNK
        self.tensors = [torch.zeros((self.n_blocks, page), dtype=torch.int8) for _ in _LAYERS]
        window = {"window_bytes": 2 * n_chunks * chunk_bytes, "storage": our_options(root)}
        said = offloading_config({"kvatlas": window}, chunk_bytes)
        self.manager = KvatlasOffloadingSpec(said).get_manager()
        caches = [base.CanonicalKVCacheTensor(one, page) for one in self.tensors]
        refs = [[base.CanonicalKVCacheRef(at, page) for at in range(len(_LAYERS))]]
        self.worker = KvatlasOffloadingSpec(said).get_worker(base.CanonicalKVCaches(caches, refs))
        self.manager.on_schedule_end(step_ended())

    def store(self, keys: list[Any]) -> None:
        """From the device into the window."""
        context = request("stores")
        self.manager.on_new_request(context)
        begun = self.manager.prepare_store(keys, context)
        assert begun is not None and len(begun.keys_to_store) == len(keys), begun
        blocks = list(range(len(keys) * BLOCKS_PER_CHUNK))
        assert self.worker.submit_store(
            1, base.GPULoadStoreSpec(blocks, [len(blocks)], [0]), begun.store_spec
        )
        self.worker.wait({1})
        assert [one.success for one in self.worker.get_finished()] == [True]
        self.manager.complete_store(keys, context)
        self.manager.on_request_finished(context)

    def close(self) -> None:
        self.worker.shutdown()
        self.manager.shutdown()
