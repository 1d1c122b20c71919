"""What Copier refuses before it touches a byte, and how it says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvatlas.index.errors import InputError, StoreError
from kvatlas.offload._native import Copier
from tests.offload.native.copies_rig import CopyRig, Job

pytestmark = pytest.mark.native


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 99], [2], [0], [0]), r"block_ids\[1\]: expected 0 to 31, got 99"),
        (([1, -1], [2], [0], [0]), r"block_ids\[1\]: expected 0 to 31, got -1"),
        (([1, 2], [3], [0], [0]), "block_ids: expected as many as group_sizes add up to, got 2"),
        (([1, 2], [1], [0], [0]), "block_ids: expected 1, as group_sizes add up to, got 2"),
        (([1, 2], [2], [3], [0]), "rows: expected 2, one a chunk, got 1"),
        (([1, 2], [2], [0], [12]), r"rows\[0\]: expected 0 to 11, got 12"),
        (([1, 2], [1, 1], [0], [0]), "group_sizes: expected 1 numbers, got 2"),
        (([1, 2], [2], [0, 0], [0]), "block_indices: expected 1 numbers, got 2"),
        (([1, 2], [-2], [0], [0]), r"group_sizes\[0\]: expected 0 to 2147483647, got -2"),
    ],
)
def test_blocks_and_rows_that_do_not_exist_are_refused(
    arguments: tuple[list[int], ...], message: str
) -> None:
    rig = CopyRig()
    copier = rig.copier()
    before = rig.rows.copy()
    ids, sizes, indices, rows = (np.array(numbers, np.int32) for numbers in arguments)
    with pytest.raises(InputError, match=message):
        copier.submit_store(1, ids, sizes, indices, rows)
    assert copier.finished() == [] and np.array_equal(rig.rows, before)


def test_arrays_of_other_types_are_refused() -> None:
    rig = CopyRig()
    copier = rig.copier()
    ids, sizes, indices, rows = Job([[1, 2]], [0], [[0]]).arrays()
    wide: Any = ids.astype(np.int64)
    with pytest.raises(InputError, match="block_ids: expected one dimension of int32, got 1 of format 'l'"):
        copier.submit_store(1, wide, sizes, indices, rows)
    listed: Any = [0]
    with pytest.raises(InputError, match="rows: expected a contiguous int32 array, got list"):
        copier.submit_store(1, ids, sizes, indices, listed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "gpu"}, "device: expected 'host' or 'cuda:' and a number, got 'gpu'"),
        ({"device": "cuda:"}, "device: expected 'host'"),
        ({"host_threads": 0}, "threads: expected 1 to 64, got 0"),
        ({"blocks_per_chunk": 0}, "blocks_per_chunk: expected 1 to 1048576, got 0"),
        ({"row_bytes": 1 << 40}, "memory: expected at least one row"),
        ({"tensors": []}, "tensors and groups: expected at least one of each"),
        ({"tensors": [(0, 4, 64, 0)]}, r"tensors\[0\]: expected an address, got 0"),
        ({"tensors": [(64, 4, 64, 200)]}, r"tensors\[0\].row_offset: expected at most 0, got 200"),
        ({"tensors": [(64, 0, 64, 0)]}, r"tensors\[0\].n_blocks: expected 1 to 2147483647, got 0"),
        ({"page_bytes": [65]}, r"page_bytes\[0\]: expected 1 to what fits into a row 4 times, got 65"),
        ({"page_bytes": [1, 1]}, "page_bytes: expected 1, one for each tensor, got 2"),
        ({"groups": [[(1, 64)]]}, r"groups\[0\]: expected a tensor below 1, got 1"),
        ({"groups": [[(0, 65)]]}, r"groups\[0\].bytes: expected 1 to 64, got 65"),
        ({"time_limit_s": 0.0}, "jobs_max and time_limit_s: expected more than 0"),
        ({"memory": b"read only"}, "memory: expected a contiguous writable buffer, got bytes"),
    ],
)
def test_layouts_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    block = np.zeros((4, 64), np.uint8)
    arguments: dict[str, Any] = {
        "memory": np.zeros((2, 256), np.uint8),
        "row_bytes": 256,
        "device": "host",
        "blocks_per_chunk": 4,
        "tensors": [(block.ctypes.data, 4, 64, 0)],
        "groups": [[(0, 64)]],
    }
    Copier(**arguments)
    with pytest.raises(InputError, match=message):
        Copier(**(arguments | change))


def test_without_the_driver_s_library_the_error_names_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"CUDA: expected the driver library .*absent.so, got: "):
        CopyRig().copier(device="cuda:0", driver=str(tmp_path / "absent.so"))
