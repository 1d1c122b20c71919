"""A writer that is killed: its blocks go with its lease, and others go on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.ingest.remote.shared_atlas import (
    FIRST,
    MODEL,
    QUICK,
    TOKENS,
    closing,
    new_atlas,
    new_reader,
    settle_equal,
)
from tests.servers.redis_server import RedisServer, wait_until

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_the_blocks_of_a_killed_writer_go_with_its_lease(redis_server: RedisServer) -> None:
    lease_s = 1.0
    atlas = new_atlas(redis_server, sharing=msgspec.structs.replace(QUICK, lease_s=lease_s))
    reader = new_reader(redis_server)
    command = [sys.executable, "-m", "tests.ingest.remote.writer_process", redis_server.url, "gone", "1.0"]
    with closing(atlas, reader), subprocess.Popen(command, cwd=ROOT) as other:
        try:
            atlas.ingest(b"kv@stays@m", 0, FIRST)
            wait_until(lambda: set(reader.score(TOKENS, model=MODEL)) == {"stays", "gone"}, timeout_s=60.0)
        finally:
            other.kill()
        wait_until(lambda: set(reader.score(TOKENS, model=MODEL)) == {"stays"})
        wait_until(lambda: redis_server.client().scard("{kvatlas:fleet}:over") == 0)
        wait_until(lambda: reader.status().is_whole)
        settle_equal(atlas, reader=reader)
        lanes = redis_server.client().hkeys("{kvatlas:fleet}:lanes")
        assert len(lanes) == 1
