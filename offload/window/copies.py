"""A worker's part of transfers: copies between its device and the window's rows, and who is told how they
ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from kvatlas.index.errors import KvatlasError
from kvatlas.offload._native import Copier
from kvatlas.offload.window.shared_memory import WindowMemory
from kvatlas.offload.window.tickets import sign_off

Numbers = npt.NDArray[np.int32]


class Blocks(msgspec.Struct, frozen=True):
    """Blocks on the device, group after group.

    ids [sum of sizes]; sizes and indices [n_groups]: how many blocks, and which block of its request is the
    first.
    """

    ids: Numbers
    sizes: Numbers
    indices: Numbers


def blocks_of(ids: Sequence[int], sizes: Sequence[int], indices: Sequence[int]) -> Blocks:
    return Blocks(*(np.asarray(numbers, dtype=np.int32) for numbers in (ids, sizes, indices)))


class Copied(msgspec.Struct, frozen=True):
    """A job has ended."""

    job: int
    is_load: bool
    is_ok: bool
    n_bytes: int
    seconds: float
    block_ids: Numbers
    """Of a load: where nothing, or not everything, has arrived if it failed."""


class _Job(msgspec.Struct, frozen=True):
    ticket: int
    is_load: bool
    block_ids: Numbers


class Copies:
    """One worker's copies; its thread. A job that was taken ends once in `finished`, with success or without.

    When a job has ended its ticket is signed off in the window. Without one, for a tier's memory, nobody is
    told.
    """

    def __init__(self, copier: Copier, window: WindowMemory | None = None, rank: int = 0) -> None:
        self._copier, self._window, self._rank = copier, window, rank
        self._jobs: dict[int, _Job] = {}
        self._refused: list[int] = []
        self.failed = 0
        self.last_error = ""

    def submit(
        self, job: int, blocks: Blocks, rows: Numbers, *, is_load: bool, ticket: int = 0, stream: int = 0
    ) -> None:
        """Begins to copy blocks from the device into rows, or back; after all that `stream` of the device
        has to do.
        """
        self._jobs[job] = _Job(ticket, is_load, blocks.ids)
        submit = self._copier.submit_load if is_load else self._copier.submit_store
        try:
            submit(job, blocks.ids, blocks.sizes, blocks.indices, rows, stream)
        except KvatlasError as error:  # nothing was begun: the job ends as failed, and no other with it
            self.last_error = str(error)
            self._refused.append(job)

    def finished(self) -> list[Copied]:
        ended = [
            self._end(job, is_ok, n_bytes, seconds)
            for job, is_ok, n_bytes, seconds in self._copier.finished()
        ]
        refused, self._refused = self._refused, []
        return ended + [self._end(job, False, 0, 0.0) for job in refused]

    def _end(self, number: int, is_ok: bool, n_bytes: int, seconds: float) -> Copied:
        job = self._jobs.pop(number)
        if not is_ok:
            self._note_failure()
        if self._window is not None:
            sign_off(self._window.board, self._rank, job.ticket, failed=not is_ok)
        return Copied(number, job.is_load, is_ok, n_bytes, seconds, job.block_ids)

    def _note_failure(self) -> None:
        self.failed += 1
        statistics = self._copier.statistics()
        self.last_error = statistics.first_error or self.last_error
        if statistics.is_lost and self._window is not None:  # what it was given may still write
            self._window.leave(self._rank)

    def wait(self, jobs: Iterable[int]) -> None:
        """Returns when none of these jobs copies any more; unknown ones are none."""
        self._copier.wait([job for job in jobs if job in self._jobs])

    def close(self) -> bool:
        """Ends what is under way. False: a device hangs, and may still write: the memory must stay where it
        is.
        """
        return bool(self._copier.close())
