"""Two ways to offload vLLM's KV blocks, by class name in kv_connector_extra_config with spec_module_path
kvatlas.offload.spec.

    KvatlasOffloadingSpec    GPU <-> a store of KV files, through a window of shared host memory
    KvatlasTieringSpec       vLLM's own TieringOffloadingSpec with our device copies; it runs on CPUs too

Loaded by vLLM's API server, engine core and workers. vLLM 0.29 and 0.32.
"""

from __future__ import annotations

import inspect
import mmap
from typing import Any

import msgspec
import numpy as np
import vllm
from vllm.platforms import current_platform
from vllm.v1.kv_offload.base import (
    CanonicalKVCaches,
    OffloadingManager,
    OffloadingMetricMetadata,
    OffloadingSpec,
    OffloadingWorker,
)
from vllm.v1.kv_offload.config import OffloadingConfig
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec

from kvatlas.index.errors import ConfigError
from kvatlas.offload._native import Copier, numa_node_of_pci
from kvatlas.offload.layout.device import device_name
from kvatlas.offload.layout.fingerprint import from_offloading_config
from kvatlas.offload.layout.hashing import hash_scheme
from kvatlas.offload.storing.opening import open_storage
from kvatlas.offload.window.copies import Copies, Numbers
from kvatlas.offload.window.geometry import Geometry, geometry_of
from kvatlas.offload.window.manager import WindowManager, WindowRows, window_metric_definitions
from kvatlas.offload.window.settings import window_settings
from kvatlas.offload.window.shared_memory import WindowMemory, WindowShape, attach
from kvatlas.offload.window.window import Window
from kvatlas.offload.window.worker import CopyingWorker


class KvatlasOffloadingSpec(OffloadingSpec):
    """GPU <-> storage. Its options: `WindowSettings`, with `storage` (`StorageSettings`), under "kvatlas"."""

    @classmethod
    def build_metric_definitions(cls, extra_config: dict[str, Any]) -> dict[str, OffloadingMetricMetadata]:
        return window_metric_definitions()

    def __init__(self, config: OffloadingConfig) -> None:
        """Raises ConfigError for options that are missing, unknown or out of range."""
        super().__init__(config)
        self._settings, self._storage_settings = window_settings(config.extra_config)
        if config.canonical_layout:
            raise ConfigError("canonical_layout: expected false with KvatlasOffloadingSpec, got true")
        self.replicated_layout = config.replicated_layout
        self._cell_bytes = config.worker_kv_bytes_per_block * config.cache.blocks_per_chunk
        row_bytes = -(-self._cell_bytes * self._n_writing_ranks // mmap.PAGESIZE) * mmap.PAGESIZE
        n_rows = self._settings.window_bytes // row_bytes if row_bytes else 0
        if self._cell_bytes and not n_rows:
            raise ConfigError(
                f"kvatlas.window_bytes: expected at least {row_bytes}, one chunk, "
                f"got {self._settings.window_bytes}"
            )
        self._shape = WindowShape(n_rows, row_bytes, config.parallel.world_size)
        self._manager: WindowManager | None = None
        self._worker: CopyingWorker | None = None

    @property
    def _n_writing_ranks(self) -> int:
        """Ranks that have a place of their own in a row, and write it."""
        return 1 if self.replicated_layout else self.config.parallel.world_size

    def _attach(self, rank: int | None) -> WindowMemory:
        settings = self._settings
        return attach(
            settings.folder, self.config.engine_id, self._shape, rank=rank, seconds=settings.attach_s_max
        )

    def get_manager(self) -> OffloadingManager:
        if self._manager is None:
            memory = self._attach(None)
            try:
                self._manager = self._make_manager(memory)
            except BaseException:
                memory.close()
                raise
        return self._manager

    def _make_manager(self, memory: WindowMemory) -> WindowManager:
        settings = self._storage_settings
        hashing = hash_scheme(settings.hash_algorithm)
        fields = from_offloading_config(
            self.config,
            row_bytes=self._shape.row_bytes,
            hashing=hashing,
            engine_version=settings.engine_version or vllm.__version__,
            device=settings.device or device_name(current_platform),
            revision=settings.revision,
        )
        tells_engine = self.kv_events_config.enable_kv_cache_events
        storage = open_storage(
            settings,
            fields,
            memory.rows,
            tells_engine=tells_engine,
            data_parallel_rank=self.config.parallel.data_parallel_index,
            numa_node=memory.numa_node,
        )
        told = msgspec.structs.replace(self._settings, events=self._settings.events and tells_engine)
        window = Window(
            told, memory, storage, key_bytes=fields.key_bytes, n_writing_ranks=self._n_writing_ranks
        )
        return WindowManager(window, storage, hashing, tells_engine=tells_engine)

    def get_worker(self, kv_caches: CanonicalKVCaches) -> OffloadingWorker:
        if self._worker is None:
            rank = self.config.parallel.rank
            memory = self._attach(rank)
            try:
                self._worker = self._make_worker(kv_caches, memory, rank)
            except BaseException:
                memory.close()
                raise
        return self._worker

    def _make_worker(self, kv_caches: CanonicalKVCaches, memory: WindowMemory, rank: int) -> CopyingWorker:
        geometry = geometry_of(
            kv_caches,
            blocks_per_chunk=self.blocks_per_chunk,
            row_offset=0 if self.replicated_layout else rank * self._cell_bytes,
            cell_bytes_max=self._cell_bytes,
        )
        copier = _copier(
            geometry, memory.rows, self._shape.row_bytes, self.blocks_per_chunk, self._settings.driver
        )
        memory.note_numa_node(rank, numa_node_of_pci(copier.pci_address or ""))

        def release(is_safe: bool) -> None:
            if is_safe:
                memory.close()

        return CopyingWorker(
            Copies(copier, memory, rank),
            _of_window,
            is_cuda=geometry.is_cuda,
            survives_stores=True,
            release=release,
        )


def _of_window(spec: Any) -> tuple[Numbers, int]:
    assert isinstance(spec, WindowRows)
    return spec.rows, spec.ticket


class KvatlasTieringSpec(TieringOffloadingSpec):
    """TieringOffloadingSpec with its options and tiers; only the copies between the device and CPU memory
    are ours.
    """

    _copying_worker: CopyingWorker | None = None

    def get_worker(self, kv_caches: CanonicalKVCaches) -> OffloadingWorker:
        if self._copying_worker is None:
            self._copying_worker = self._make_worker(kv_caches)
        return self._copying_worker

    def _make_worker(self, kv_caches: CanonicalKVCaches) -> CopyingWorker:
        if self.config.canonical_layout:
            raise ConfigError("canonical_layout: expected false with KvatlasTieringSpec, got true")
        region = _region(self)
        try:
            memory = region.create_kv_memoryview()
            rank = 0 if self.replicated_layout else self.config.parallel.rank
            cell_bytes = self.cpu_page_size_per_worker
            geometry = geometry_of(
                kv_caches,
                blocks_per_chunk=self.blocks_per_chunk,
                row_offset=rank * cell_bytes,
                cell_bytes_max=cell_bytes,
            )
            copier = _copier(geometry, memory, self.kv_bytes_per_chunk, self.blocks_per_chunk, None)
        except BaseException:
            region.cleanup()
            raise

        def release(is_safe: bool) -> None:
            if is_safe:
                region.cleanup()

        return CopyingWorker(
            Copies(copier), _of_region, is_cuda=geometry.is_cuda, survives_stores=False, release=release
        )


def _of_region(spec: Any) -> tuple[Numbers, int]:
    return np.ascontiguousarray(spec.block_ids, dtype=np.int32), 0


def _region(spec: Any) -> SharedOffloadRegion:
    """This worker's mapping of the CPU tier; vLLM 0.29 calls chunks blocks."""
    named = inspect.signature(SharedOffloadRegion).parameters
    rows = spec.num_chunks if "num_chunks" in named else spec.num_blocks
    more = (
        ("num_chunks", "kv_bytes_per_chunk")
        if "num_chunks" in named
        else ("num_blocks", "kv_bytes_per_block")
    )
    return SharedOffloadRegion(
        engine_id=spec.config.engine_id,
        rank=0 if spec.replicated_layout else spec.config.parallel.rank,
        cpu_page_size=spec.cpu_page_size_per_worker,
        **dict(zip(more, (rows, spec.kv_bytes_per_chunk), strict=True)),
    )


def _copier(
    geometry: Geometry, memory: Any, row_bytes: int, blocks_per_chunk: int, driver: str | None
) -> Copier:
    return Copier(
        memory,
        row_bytes,
        device=geometry.device,
        driver=driver,
        blocks_per_chunk=blocks_per_chunk,
        tensors=geometry.tensors,
        groups=geometry.groups,
        page_bytes=geometry.pages,
    )
