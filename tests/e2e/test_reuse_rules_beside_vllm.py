"""The rules of reuse (tests/models/reuse.py) beside vLLM's own lookups, without a server."""

from __future__ import annotations

import subprocess
from pathlib import Path

CASES = 3_000


def test_the_rules_are_those_of_vllm(vllm_python: str) -> None:
    """Any mix of groups, windows, block sizes, decoders and chunks, with anything held."""
    command = [vllm_python, "-m", "tests.e2e.reuse_rules", "7", str(CASES)]
    root = Path(__file__).parents[2]
    ran = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=110, check=False)
    assert ran.returncode == 0, ran.stderr[-2_000:]
    lines = [line.split() for line in ran.stdout.splitlines() if line.startswith(("device ", "behind "))]
    assert [(name, different) for name, different, _ in lines] == [("device", "0"), ("behind", "0")]
    assert all(int(hits) > CASES // 10 for _, _, hits in lines), "most cases would say nothing"
