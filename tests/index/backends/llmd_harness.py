"""An index in llm-d's format, on a real server."""

from __future__ import annotations

import itertools

from kvatlas.index.block_index import BlockIndex
from kvatlas.index.remote.connection.commands import Command
from kvatlas.index.remote.connection.connection import RemoteConnection
from kvatlas.index.remote.connection.settings import RemoteSettings
from kvatlas.index.remote.llmd.lane_names import LaneName, LaneNames
from kvatlas.index.remote.llmd.llmd_index import LlmdIndex
from tests.index.backends.harness import Exact
from tests.servers.redis_server import RedisServer

_DATABASES = itertools.cycle(range(1, 16))
"""Of one server: two harnesses of one module must not share one."""


class EveryLane(LaneNames):
    """Each lane is named after its number."""

    def name_of(self, lane: int) -> LaneName:
        return LaneName(f"pod-{lane}", 0 if lane % 2 else None)

    def lane_of(self, pod: str, group: int | None) -> int | None:
        lane = int(pod.removeprefix("pod-"))
        return lane if group == (0 if lane % 2 else None) else None


class LlmdHarness(Exact):
    """Its limits: docs/llmd_format.md, what it cannot hold."""

    keeps_closedness = False
    exports_instants = False
    replaces_at_once = False
    holds_segments = False
    needs_segments = False
    histories = 12

    def __init__(self, server: RedisServer) -> None:
        settings = RemoteSettings(
            url=f"{server.url.rstrip('/')}/{next(_DATABASES)}",
            format="llmd",
            timeout_ms=30_000,
            write_timeout_ms=30_000,
            connect_timeout_ms=30_000,
        )
        self._settings = settings
        self._connection = RemoteConnection(settings)

    def make(self) -> BlockIndex:
        self._connection.run_or_raise([Command(None, ("FLUSHDB",))])
        return LlmdIndex(self._connection, self._settings, EveryLane())

    def close(self) -> None:
        self._connection.close()
