"""The suite's fixtures: every test that asks for `index` runs over every backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from kvatlas.index.block_index import BlockIndex
from tests.index.backends.harness import Harness
from tests.servers.fixtures import shared_servers as shared_servers
from tests.servers.programs import Kind

Make = Callable[[pytest.FixtureRequest], Harness]


def _tables(n_shards: int) -> Make:
    def make(_request: pytest.FixtureRequest) -> Harness:
        from tests.index.backends.memory_harness import TablesHarness

        return TablesHarness(n_shards)

    return make


def _cluster(_request: pytest.FixtureRequest) -> Harness:
    from tests.index.backends.cluster_harness import ClusterHarness

    return ClusterHarness(3)


def _llmd(request: pytest.FixtureRequest) -> Harness:
    from tests.index.backends.llmd_harness import LlmdHarness

    return LlmdHarness(request.getfixturevalue("shared_servers").server("redis"))


def _compact(kind: Kind, buckets: int) -> Make:
    def make(request: pytest.FixtureRequest) -> Harness:
        from tests.index.backends.compact_harness import CompactHarness

        return CompactHarness(request.getfixturevalue("shared_servers").server(kind).url, buckets)

    return make


def _compact_in_cluster(request: pytest.FixtureRequest) -> Harness:
    from tests.index.backends.compact_harness import CompactHarness

    return CompactHarness(request.getfixturevalue("shared_servers").cluster("redis").url)


BACKENDS: dict[str, Make] = {
    "table": _tables(1),
    "five-tables": _tables(5),
    "cluster": _cluster,
    "redis": _compact("redis", 1),
    "valkey-7-buckets": _compact("valkey", 7),
    "redis-cluster": _compact_in_cluster,
    "llmd": _llmd,
}


def _harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    harness = BACKENDS[request.param](request)
    yield harness
    harness.close()


@pytest.fixture(scope="module", params=BACKENDS)
def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    yield from _harness(request)


@pytest.fixture(scope="module", params=BACKENDS)
def other_harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    """Another backend, or a second one of the same."""
    yield from _harness(request)


@pytest.fixture
def index(harness: Harness) -> Iterator[BlockIndex]:
    index = harness.make()
    yield index
    index.close()


@pytest.fixture
def other(other_harness: Harness) -> Iterator[BlockIndex]:
    index = other_harness.make()
    yield index
    index.close()
