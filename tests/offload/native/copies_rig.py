"""KV tensors, rows, jobs, and what a job must change, computed one byte range after the other."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvatlas.offload._native import Copier

Numbers = NDArray[np.int32]


class Tensor(NamedTuple):
    """Blocks of KV bytes: `data[b, :page_bytes]` is block b; what lies beyond belongs to somebody else."""

    data: NDArray[np.uint8]
    page_bytes: int


class Job(NamedTuple):
    """Blocks and rows, by group."""

    block_ids: list[list[int]]
    block_indices: list[int]
    rows: list[list[int]]

    def arrays(self) -> tuple[Numbers, Numbers, Numbers, Numbers]:
        """As Copier takes them."""
        return (
            np.array([b for group in self.block_ids for b in group], np.int32),
            np.array([len(group) for group in self.block_ids], np.int32),
            np.array(self.block_indices, np.int32),
            np.array([row for group in self.rows for row in group], np.int32),
        )


class CopyRig:
    """Tensors and rows full of random bytes.

    `page_bytes` and `gap_bytes` (between pages) have one for each tensor, `groups` has (tensor, bytes) for
    each group; `row_lead_bytes` and `row_tail_bytes` of each row belong to other ranks.
    """

    def __init__(
        self,
        *,
        page_bytes: Sequence[int] = (4096, 4096),
        gap_bytes: Sequence[int] = (0, 0),
        groups: Sequence[Sequence[tuple[int, int]]] = (((0, 4096), (1, 4096)),),
        blocks_per_chunk: int = 4,
        n_blocks: int = 32,
        n_rows: int = 12,
        row_lead_bytes: int = 0,
        row_tail_bytes: int = 0,
        seed: int = 0,
    ) -> None:
        random = np.random.default_rng(seed)
        self.blocks_per_chunk = blocks_per_chunk
        self.groups = [list(group) for group in groups]
        self.tensors = [
            Tensor(random.integers(0, 256, (n_blocks, page + gap), np.uint8), page)
            for page, gap in zip(page_bytes, gap_bytes, strict=True)
        ]
        self.row_offsets = list(
            np.cumsum([row_lead_bytes, *(page * blocks_per_chunk for page in page_bytes[:-1])])
        )
        row_bytes = row_lead_bytes + blocks_per_chunk * sum(page_bytes) + row_tail_bytes
        # Pages of their own, as memory that a driver pins must be.
        self.memory = mmap.mmap(-1, n_rows * row_bytes)
        self.rows = np.frombuffer(self.memory, np.uint8).reshape(n_rows, row_bytes)
        self.rows[:] = random.integers(0, 256, self.rows.shape, np.uint8)

    def copier(self, *, device: str = "host", **options: Any) -> Copier:
        return Copier(
            self.rows,
            self.rows.shape[1],
            device=device,
            blocks_per_chunk=self.blocks_per_chunk,
            tensors=[
                (t.data.ctypes.data, len(t.data), t.data.shape[1], int(offset))
                for t, offset in zip(self.tensors, self.row_offsets, strict=True)
            ],
            groups=self.groups,
            page_bytes=[t.page_bytes for t in self.tensors],
            **options,
        )

    def after_store(self, job: Job) -> NDArray[np.uint8]:
        """The rows as the job must leave them."""
        rows: NDArray[np.uint8] = self.rows.copy()
        for tensor, bytes_of_block, block, row, at in self._pieces(job):
            rows[row, at : at + bytes_of_block] = self.tensors[tensor].data[block, :bytes_of_block]
        return rows

    def after_load(self, job: Job) -> list[NDArray[np.uint8]]:
        """The tensors as the job must leave them."""
        data = [tensor.data.copy() for tensor in self.tensors]
        for tensor, bytes_of_block, block, row, at in self._pieces(job):
            data[tensor][block, :bytes_of_block] = self.rows[row, at : at + bytes_of_block]
        return data

    def n_bytes(self, job: Job) -> int:
        """What the job moves, each byte once."""
        longest: dict[tuple[int, ...], int] = {}
        for tensor, n_bytes, block, row, at in self._pieces(job):
            piece = (tensor, block, row, at)
            longest[piece] = max(longest.get(piece, 0), n_bytes)
        return sum(longest.values())

    def _pieces(self, job: Job) -> list[tuple[int, int, int, int, int]]:
        """(tensor, bytes, block, row, offset in the row) of each block of each tensor of its group."""
        pieces = []
        for group, blocks in enumerate(job.block_ids):
            skipped = job.block_indices[group] % self.blocks_per_chunk
            for i, block in enumerate(blocks):
                chunk, place = divmod(skipped + i, self.blocks_per_chunk)
                row = job.rows[group][chunk]
                for tensor, n_bytes in self.groups[group]:
                    at = int(self.row_offsets[tensor]) + place * self.tensors[tensor].page_bytes
                    pieces.append((tensor, n_bytes, block, row, at))
        return pieces
