"""A shared-memory table where files cannot grow: as on a full /dev/shm, for one process only."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

_GROW = """
import resource, signal, sys
import numpy as np
from kvatlas.index._native import Table, TableReader
from kvatlas.index.errors import TableFileError
from tests.models.table import ADD, REMOVE, Record

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # growing beyond the limit is then an error
path, limit = sys.argv[1], int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    table = Table(budget_bytes=1 << 26, path=path)
except TableFileError as error:
    print("refused", error)
    sys.exit()
keys = np.random.default_rng(0).integers(2, 2**63, 300_000, dtype=np.uint64)
for begin in range(0, len(keys), 500):
    table.apply(Record(ADD, 7, 1, tuple(map(int, keys[begin : begin + 500])), int(keys[begin])).packed())
s = table.statistics()
held = sum(bool(found) for found in TableReader(path, age_ms_max=60_000).lookup(keys))
assert held == s["entries"], (held, s)
assert s["rebuild_failures"] > 0 and s["dropped_adds"] == len(keys) - held, s
table.apply(Record(REMOVE, 7, 1, tuple(map(int, keys))).packed())
assert table.statistics()["entries"] == 0
table.apply(Record(ADD, 8, 1, tuple(map(int, keys[:100]))).packed())
before = table.statistics()
table.replace([9], Record(ADD, 9, 1, tuple(map(int, keys)), 5).packed())
s = table.statistics()
again = sum((9, 1) in found for found in TableReader(path, age_ms_max=60_000).lookup(keys))
lost = sum(s[name] - before[name] for name in ("dropped_adds", "dropped_entries"))
assert 0 < again and again + lost >= len(keys), (again, lost)
table.replace([9], b"")
assert not any((9, 1) in found for found in table.lookup(keys))
print("kept", held)
"""


@pytest.fixture
def folder() -> str:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()


def grow(path: Path, limit_bytes: int) -> str:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", _GROW, str(path), str(limit_bytes)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, check=False, env=environment, cwd=root
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_table_that_cannot_grow_keeps_what_it_has_and_counts_what_it_drops(folder: str) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as where:
        said = grow(Path(where) / "table", 3 << 20)
        assert int(said.split()[1]) > 50_000


@pytest.mark.slow
@pytest.mark.parametrize("limit_bytes", [0, 4095, 4096, 64 << 10, 400 << 10])
def test_a_table_that_has_no_room_at_all_is_refused_and_leaves_nothing_behind(
    folder: str, limit_bytes: int
) -> None:
    """No room for the control file, for its first generation, for the first slots."""
    with tempfile.TemporaryDirectory(dir=folder) as where:
        assert "no room" in grow(Path(where) / "table", limit_bytes)
        assert os.listdir(where) == []
