"""Where an engine's KV blocks lie: its tensors, as the native copier takes them."""

from __future__ import annotations

from typing import Any

import msgspec

from kvatlas.index.errors import StoreError


class Geometry(msgspec.Struct, frozen=True):
    """Tensors and groups of one worker.

    tensors: (address of block 0, blocks, bytes from block to block, place in a row); pages: bytes of a
    block in each of them; groups: for each cache group, (tensor, bytes of a block that the group uses).
    """

    device: str
    tensors: list[tuple[int, int, int, int]]
    pages: list[int]
    groups: list[list[tuple[int, int]]]

    @property
    def is_cuda(self) -> bool:
        return self.device.startswith("cuda")


def geometry_of(kv_caches: Any, *, blocks_per_chunk: int, row_offset: int, cell_bytes_max: int) -> Geometry:
    """The geometry of an engine's canonical KV caches, of which a worker's chunk lies in a row from
    row_offset on.

    A row has the tensors one after the other, and of each one the blocks of the chunk. Raises StoreError
    where they take more than cell_bytes_max, lie on several devices, or are not laid out block by block.
    """
    tensors: list[tuple[int, int, int, int]] = []
    pages: list[int] = []
    at = 0
    devices = {_device_of(tensor.tensor) for tensor in kv_caches.tensors}
    if len(devices) != 1:
        raise StoreError(f"KV caches: expected tensors on one device, got {sorted(devices)}")
    for tensor in kv_caches.tensors:
        page, cache = int(tensor.page_size_bytes), tensor.tensor
        stride = cache.stride(0) * cache.element_size()
        if stride < page:
            raise StoreError(f"KV caches: expected blocks of {page} bytes apart, got {stride}")
        tensors.append((cache.data_ptr(), int(cache.shape[0]), stride, row_offset + at))
        pages.append(page)
        at += page * blocks_per_chunk
    if at > cell_bytes_max:
        raise StoreError(f"KV caches: expected at most {cell_bytes_max} bytes a worker and chunk, got {at}")
    groups = [
        [(int(ref.tensor_idx), int(ref.page_size_bytes)) for ref in refs]
        for refs in kv_caches.group_data_refs
    ]
    return Geometry(devices.pop(), tensors, pages, groups)


def _device_of(tensor: Any) -> str:
    device = tensor.device
    if device.type == "cpu":
        return "host"
    if device.type != "cuda":
        raise StoreError(f"KV caches: expected tensors of the CPU or of CUDA, got {device}")
    return f"cuda:{device.index or 0}"
