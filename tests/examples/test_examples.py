"""The examples run as a reader would run them, and print what they promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

SAID = {
    "chat_scores.py": (
        "93 tokens to pod-a: 0 foretold as reused, 0 reused",
        "138 tokens to pod-a: 80 foretold as reused, 80 reused",
        "181 tokens to pod-a: 128 foretold as reused, 128 reused",
        "Cut at 3 added tokens and at ends of lines.",
        "pieces encoded: 8 remembered: 46",
    ),
    "offline_events.py": (
        "pod-a: 4.6 of 5 blocks, {'gpu': 3, 'cpu': 2}",
        "pod-b: 3.0 of 5 blocks, {'gpu': 3}",
        "pod-b: block 3 is not held here, but by pod-a",
        "pod-b after its last batch: {'gpu': 4, 'cpu': 0}",
        "not applied: {'bad_event': 1}",
    ),
    "index_as_library.py": (
        "4800 tokens are 300 blocks",
        "worker 0 holds the first 300 blocks: {'gpu': 300}",
        "worker 1 holds the first 250 blocks: {'gpu': 200, 'cpu': 50}",
        "worker 0 holds the first 128 blocks: {'gpu': 128}",
        "no worker holds the first block",
    ),
    "proxy.py": (
        "100 tokens: 0 foretold as reused, 0 reused",
        "200 tokens: 96 foretold as reused, 96 reused",
        "300 tokens: 192 foretold as reused, 192 reused",
        "pods asked: 1",
        "receipt: 192 predicted, 192 actual",
    ),
}

ON_RAY = {
    "external_scheduler.py": (
        "picker: pod-a 4.0",
        "scheduler: pod-a, 64 of 77 tokens predicted",
        "receipt: completed, 64 predicted, 64 reused",
    ),
    "cluster_clients.py": (
        "driver: {'pod-a': 6.0}",
        "actor: pod-a",
        "deployment: pod-a",
    ),
}


BESIDE_VLLM = {"serve_llm.py": "e2e_serve/test_example.py"}
"""Needs a real engine: run by the test that stands there."""


def test_every_example_is_run_by_a_test() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*SAID, *ON_RAY, *BESIDE_VLLM}
    for name, test in BESIDE_VLLM.items():
        assert name in (EXAMPLES.parent / "tests" / test).read_text(encoding="utf-8")


def run(name: str, timeout_s: float, *options: str) -> subprocess.CompletedProcess[str]:
    finished = subprocess.run(
        [sys.executable, *options, str(EXAMPLES / name)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished


def check(printed: str, said: tuple[str, ...]) -> None:
    lines = [line.strip() for line in printed.splitlines()]
    for line in said:
        assert line in lines


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SAID))
def test_an_example_says_what_it_promises(name: str) -> None:
    finished = run(name, 60, "-W", "error")
    assert finished.stderr == ""
    check(finished.stdout, SAID[name])


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", sorted(ON_RAY))
def test_an_example_on_ray_says_what_it_promises(name: str) -> None:
    finished = run(name, 240)  # Ray and Serve have warnings and news of their own
    assert "Traceback" not in finished.stderr and "leaked" not in finished.stderr
    check(finished.stdout, ON_RAY[name])
