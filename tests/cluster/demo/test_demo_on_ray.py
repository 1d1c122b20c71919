"""The demo as a user runs it: on a Ray of its own, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(300)]


def test_the_demo_runs_on_a_ray_of_its_own_and_leaves_nothing(tmp_path: Path) -> None:
    chart = tmp_path / "result.svg"
    arguments = ["demo", "--quick", "--pods", "3", "--shards", "2", "--chart", str(chart), "--json"]
    finished = subprocess.run(
        [sys.executable, "-c", "from kvatlas.cluster.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    (line,) = finished.stdout.splitlines()
    summary = json.loads(line)
    by_score, round_robin = summary["by score"], summary["round robin"]
    assert by_score["requests"] == round_robin["requests"] == 300
    assert by_score["hit_rate"] > 1.2 * round_robin["hit_rate"]
    assert by_score["events"] > 0 and round_robin["events"] > by_score["events"]
    for said in ("Ray actors 4", "shards, whole 2 of 2", "pods followed 3", f"chart saved as {chart}"):
        assert said in finished.stderr
    assert "Traceback" not in finished.stderr and "leaked" not in finished.stderr
    assert ElementTree.parse(chart).getroot().tag.endswith("svg")
