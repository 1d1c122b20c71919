"""An index in llm-d's format and a peer beside it, on one server."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from kvatlas.index.remote.connection.connection import RemoteConnection
from kvatlas.index.remote.connection.settings import RemoteSettings
from kvatlas.index.remote.llmd.lane_names import LaneNames
from kvatlas.index.remote.llmd.llmd_index import LlmdIndex
from tests.index.remote.llmd.peer import LlmdPeer
from tests.servers.redis_cluster import RedisCluster
from tests.servers.redis_server import RedisServer

Opens = Callable[..., LlmdIndex]


def named(n_lanes: int = 8) -> LaneNames:
    """Lane i is pod-i."""
    names = LaneNames()
    for lane in range(n_lanes):
        names.put(lane, f"pod-{lane}")
    return names


def patient(url: str) -> RemoteSettings:
    """Time enough on a busy machine."""
    wait_ms = 30_000
    return RemoteSettings(
        url=url, format="llmd", timeout_ms=wait_ms, write_timeout_ms=wait_ms, connect_timeout_ms=wait_ms
    )


@pytest.fixture
def connection(redis_server: RedisServer) -> Iterator[RemoteConnection]:
    with RemoteConnection(patient(redis_server.url)) as connection:
        yield connection


@pytest.fixture
def cluster_connection(redis_cluster: RedisCluster) -> Iterator[RemoteConnection]:
    with RemoteConnection(patient(redis_cluster.url)) as connection:
        yield connection


@pytest.fixture
def opens(connection: RemoteConnection) -> Opens:
    """Makes an index on the server: with lanes 0 to 7 of pod-0 to pod-7, or with other names."""

    def open_index(names: LaneNames | None = None, connection: RemoteConnection = connection) -> LlmdIndex:
        index = LlmdIndex(connection, connection.settings, named() if names is None else names)
        if names is None:
            for lane in range(8):
                index.roster.set(lane, [lane], [])
        return index

    return open_index


@pytest.fixture
def peer(redis_server: RedisServer) -> Iterator[LlmdPeer]:
    with redis_server.client() as client:
        yield LlmdPeer(client)
