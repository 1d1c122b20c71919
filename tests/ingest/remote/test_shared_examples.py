"""The examples with an index server run as a reader would run them, and print what they promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.redis_server import RedisServer

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["redis_index.py", "valkey_index.py"])
def test_an_example_says_what_it_promises(name: str, any_server: RedisServer) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, any_server.url], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    for line in (
        "a router that hears nobody: {'a': 10.0, 'b': 40.0} whole",
        "sends the request to b",
        "after the second atlas has left: {'a': 10.0}",
    ):
        assert line in done.stdout
