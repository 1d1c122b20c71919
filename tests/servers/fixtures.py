"""Fixtures of real servers; a conftest.py imports those that its tests want.

Servers of a kind are started once in a process, and emptied for each test. A test may stop, pause or kill
what it is given: the next one finds it running again. Where a program is missing, tests that want it skip and
say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.certificates import Certificates, has_openssl, make_certificates
from tests.servers.programs import Kind
from tests.servers.redis_cluster import RedisCluster
from tests.servers.redis_server import NoServerError, RedisServer

ServerFactory = Callable[..., RedisServer]


def _started(folder: Path, **options: Any) -> RedisServer:
    try:
        return RedisServer(folder, **options).start()
    except NoServerError as reason:
        pytest.skip(str(reason))


class _Shared:
    """One server of each kind, from its first use to the end of the session."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._servers: dict[Kind, RedisServer] = {}
        self._clusters: dict[Kind, RedisCluster] = {}

    def server(self, kind: Kind) -> RedisServer:
        if kind not in self._servers:
            self._servers[kind] = _started(self._folders.mktemp(kind), kind=kind)
        self._servers[kind].flush()
        return self._servers[kind]

    def cluster(self, kind: Kind) -> RedisCluster:
        found = self._clusters.get(kind)
        if found is not None and not found.goes_on():
            found.stop()
            found = None
        if found is None:
            try:
                found = RedisCluster(self._folders.mktemp(f"{kind}-cluster"), kind=kind).start()
            except NoServerError as reason:
                pytest.skip(str(reason))
            self._clusters[kind] = found
        found.flush()
        return found

    def stop(self) -> None:
        for server in self._servers.values():
            server.stop()
        for cluster in self._clusters.values():
            cluster.stop()


@pytest.fixture(scope="session")
def shared_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Shared]:
    shared = _Shared(tmp_path_factory)
    yield shared
    shared.stop()


@pytest.fixture
def redis_server(shared_servers: _Shared) -> RedisServer:
    """A plain redis-server on the loopback, empty."""
    return shared_servers.server("redis")


@pytest.fixture
def valkey_server(shared_servers: _Shared) -> RedisServer:
    """A plain valkey-server on the loopback, empty."""
    return shared_servers.server("valkey")


@pytest.fixture(params=["redis", "valkey"])
def any_server(request: pytest.FixtureRequest, shared_servers: _Shared) -> RedisServer:
    """Each test once with Redis and once with Valkey."""
    return shared_servers.server(request.param)


@pytest.fixture
def redis_cluster(shared_servers: _Shared) -> RedisCluster:
    """Three Redis nodes that are one cluster, empty."""
    return shared_servers.cluster("redis")


@pytest.fixture(params=["redis", "valkey"])
def any_cluster(request: pytest.FixtureRequest, shared_servers: _Shared) -> RedisCluster:
    """Each test once with a cluster of Redis and once of Valkey."""
    return shared_servers.cluster(request.param)


@pytest.fixture
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerFactory]:
    """Starts servers of one's own: RedisServer's arguments less the folder. They end with the test."""
    begun: list[RedisServer] = []

    def start(**options: Any) -> RedisServer:
        # Short: the path of a unix socket has 107 bytes at most.
        begun.append(_started(tmp_path_factory.mktemp("s"), **options))
        return begun[-1]

    yield start
    for server in begun:
        server.stop()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Of the authority that TLS servers of tests have."""
    if not has_openssl():
        pytest.skip("no openssl command to make certificates with")
    return make_certificates(tmp_path_factory.mktemp("certificates"))
