"""Whatever callers make up without end, a chooser's memory stays what it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.index.choosing.flood import KINDS

ROOT = Path(__file__).resolve().parents[3]
GROWTH_BYTES_MAX = 6 << 20
"""Of a process that has filled its bounds before: what allocators and the interpreter like to take."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_flood_takes_no_more_memory_than_the_bounds(kind: str) -> None:
    command = [sys.executable, "-m", "tests.index.choosing.flood", kind]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    assert int(told.stdout) < GROWTH_BYTES_MAX
