"""The examples run as a reader would run them, and print what they promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.fixtures import redis_server as redis_server
from tests.servers.fixtures import shared_servers as shared_servers
from tests.servers.redis_server import RedisServer

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
    "offload.py": (
        "first engine: 24 chunks stored, 24 files",
        "first engine: 24 announced",
        "second engine: 24 of 32 chunks are there",
        "second engine: 24 loaded, all right: True",
        "one bit of one file flipped: 23 loaded, 1 missed, and is computed",
        "and written anew: True",
        "second engine: {'loaded': 48, 'corrupt': 1, 'stored': 1}",
        "an hour later a third engine finds 24, and may keep 40",
        "24 more: at most 40 files: True",
        "the new ones are there: True",
        "removals announced: True",
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


BESIDE_A_REDIS = {
    "redis_with_llmd.py": (
        "kvatlas scores {'10.0.0.1:8000': 4.0, '10.0.0.2:8000': 1.8}",
        "10.0.0.1:8000 is BLIND: by llm-d, nobody vouches",
        "after a clear {'10.0.0.2:8000': 1.8}",
        "left in the hashes: 0",
    ),
}

ELSEWHERE = {
    "serve_llm.py": "e2e_serve/test_example.py",
    "redis_index.py": "ingest/remote/test_shared_examples.py",
    "valkey_index.py": "ingest/remote/test_shared_examples.py",
}
"""Need a real engine, or both kinds of servers: run by the tests that stand there."""


def test_every_example_is_run_by_a_test() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*SAID, *ON_RAY, *BESIDE_A_REDIS, *ELSEWHERE}
    for name, test in ELSEWHERE.items():
        assert name in (EXAMPLES.parent / "tests" / test).read_text(encoding="utf-8")


def run(
    name: str, timeout_s: float, *options: str, arguments: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    finished = subprocess.run(
        [sys.executable, *options, str(EXAMPLES / name), *arguments],
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
@pytest.mark.parametrize("name", sorted(BESIDE_A_REDIS))
def test_an_example_beside_a_redis_says_what_it_promises(name: str, redis_server: RedisServer) -> None:
    finished = run(name, 60, "-W", "error", arguments=(redis_server.url,))
    assert finished.stderr == ""
    check(finished.stdout, BESIDE_A_REDIS[name])


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", sorted(ON_RAY))
def test_an_example_on_ray_says_what_it_promises(name: str) -> None:
    finished = run(name, 240)  # Ray and Serve have warnings and news of their own
    assert "Traceback" not in finished.stderr and "leaked" not in finished.stderr
    check(finished.stdout, ON_RAY[name])
