"""Geometry: where an engine's tensors lie in a row, read from its own description by attribute."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kvatlas.index.errors import StoreError
from kvatlas.offload.window.geometry import geometry_of


@dataclasses.dataclass
class Tensor:
    """What is read of a torch tensor of bytes."""

    data: Any
    device: Any = dataclasses.field(default_factory=lambda: SimpleNamespace(type="cpu", index=None))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape)

    def data_ptr(self) -> int:
        return int(self.data.ctypes.data)

    def stride(self, axis: int) -> int:
        return int(self.data.strides[axis])

    def element_size(self) -> int:
        return 1


def _caches(*tensors: tuple[Any, int], groups: Any, device: Any = None) -> Any:
    made = [
        SimpleNamespace(tensor=Tensor(data) if device is None else Tensor(data, device), page_size_bytes=page)
        for data, page in tensors
    ]
    refs = [[SimpleNamespace(tensor_idx=t, page_size_bytes=n) for t, n in group] for group in groups]
    return SimpleNamespace(tensors=made, group_data_refs=refs)


def test_tensors_follow_one_another_in_the_workers_place_of_a_row() -> None:
    first, second = np.zeros((8, 64), np.int8), np.zeros((8, 128), np.int8)[:, :96]
    caches = _caches((first, 64), (second, 96), groups=[[(0, 64), (1, 96)], [(1, 90)]])
    geometry = geometry_of(caches, blocks_per_chunk=4, row_offset=1000, cell_bytes_max=640)
    assert geometry.device == "host" and not geometry.is_cuda
    assert geometry.tensors == [
        (first.ctypes.data, 8, 64, 1000),
        (second.ctypes.data, 8, 128, 1000 + 4 * 64),
    ]
    assert geometry.pages == [64, 96]
    assert geometry.groups == [[(0, 64), (1, 96)], [(1, 90)]]


def test_a_cuda_device_is_named_with_its_number() -> None:
    caches = _caches(
        (np.zeros((2, 8), np.int8), 8), groups=[[(0, 8)]], device=SimpleNamespace(type="cuda", index=3)
    )
    geometry = geometry_of(caches, blocks_per_chunk=1, row_offset=0, cell_bytes_max=8)
    assert (geometry.device, geometry.is_cuda) == ("cuda:3", True)


def test_what_does_not_fit_or_is_not_known_is_refused() -> None:
    data = np.zeros((2, 8), np.int8)
    with pytest.raises(StoreError, match="expected at most 15 bytes a worker and chunk, got 16"):
        geometry_of(
            _caches((data, 8), groups=[[(0, 8)]]), blocks_per_chunk=2, row_offset=0, cell_bytes_max=15
        )
    with pytest.raises(StoreError, match="expected blocks of 9 bytes apart, got 8"):
        geometry_of(
            _caches((data, 9), groups=[[(0, 8)]]), blocks_per_chunk=1, row_offset=0, cell_bytes_max=99
        )
    other = SimpleNamespace(type="xpu", index=0)
    with pytest.raises(StoreError, match="of the CPU or of CUDA"):
        geometry_of(
            _caches((data, 8), groups=[[(0, 8)]], device=other),
            blocks_per_chunk=1,
            row_offset=0,
            cell_bytes_max=99,
        )
