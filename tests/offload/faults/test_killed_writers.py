"""Writers that are killed at any moment: whatever lies there afterwards verifies, or is not believed.

Fifty rounds, with `kvatlas offload verify` as the judge, are in tests/e2e/test_offload_kills.py.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.offload.faults.killing import check_files, kill, run_rounds, start
from tests.offload.faults.writing_process import N_CHUNKS


@pytest.mark.slow
def test_three_rounds_of_kills_leave_no_file_that_is_wrong(tmp_path: Path) -> None:
    run_rounds(tmp_path / "store", 3)


@pytest.mark.slow
def test_two_processes_that_write_the_same_chunks_leave_whole_files(tmp_path: Path) -> None:
    root = tmp_path / "store"
    writers = start(root, 7, 7)
    try:
        deadline_s = time.monotonic() + 60
        while len(list(root.rglob("*.kv"))) < N_CHUNKS and time.monotonic() < deadline_s:
            assert all(writer.is_alive() for writer in writers)
    finally:
        kill(writers)
    assert check_files(root) == N_CHUNKS
