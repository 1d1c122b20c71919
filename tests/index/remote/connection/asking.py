"""Short ways for tests to ask servers."""

from __future__ import annotations

from typing import Any

import pytest

from kvatlas.index.remote.connection.commands import Argument, Command
from kvatlas.index.remote.connection.connection import RemoteConnection
from kvatlas.index.remote.connection.settings import RemoteSettings
from tests.servers.faults import FaultyProxy
from tests.servers.redis_cluster import RedisCluster
from tests.servers.redis_server import RedisServer


def command(*words: Argument) -> Command:
    """A command whose first argument is its key."""
    key = words[1] if len(words) > 1 else None
    return Command(key if isinstance(key, bytes) else None, words)


def connect(server: RedisServer | RedisCluster | FaultyProxy | str, **settings: Any) -> RemoteConnection:
    """With more patience than a router has: machines that run tests are busy."""
    pytest.importorskip("redis")
    url = server if isinstance(server, str) else server.url
    return RemoteConnection(
        RemoteSettings(**{"url": url, "timeout_ms": 5000, "connect_timeout_ms": 5000, **settings})
    )
