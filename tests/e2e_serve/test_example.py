"""examples/serve_llm.py runs as a reader would run it on a machine without a GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ports import free_ports

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "serve_llm.py"


def test_the_example_tells_what_was_foretold_and_what_was_reused(model: Path) -> None:
    (port,) = free_ports(1)
    finished = subprocess.run(
        [sys.executable, str(EXAMPLE), str(model), "--cpu", "--once", "--port", str(port)],
        capture_output=True,
        text=True,
        timeout=800,
        env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    found = re.findall(r"of (\d+) tokens (\d+) foretold as reused, (\d+) reused", finished.stdout)
    assert len(found) == 4, finished.stdout
    assert all(foretold == reused for _, foretold, reused in found), finished.stdout
    assert int(found[-1][2]) > int(found[-1][0]) / 2, finished.stdout
