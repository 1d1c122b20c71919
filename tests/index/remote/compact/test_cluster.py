"""The same in a cluster of three nodes."""

from __future__ import annotations

import random

import pytest

from kvatlas.index._native import Table
from tests.index.remote.compact.records import ADD, REMOVE, blocks_of, chain, cleared, held, open_index, told
from tests.servers.redis_cluster import RedisCluster


@pytest.mark.slow
def test_an_index_lies_on_all_nodes_and_answers_as_a_table(any_cluster: RedisCluster) -> None:
    index, table = open_index(any_cluster.url), Table()
    rng = random.Random(7)
    chains = [chain(700, seed) for seed in range(5)]
    for _ in range(25):
        keys, lane = rng.choice(chains), rng.randrange(5)
        first = rng.randrange(600)
        batch = told(rng.choice((ADD, ADD, REMOVE)), lane, keys, first=first, last=first + 300)
        batch += cleared(lane) if rng.random() < 0.1 else b""
        index.apply([batch])
        table.apply(batch)
    for keys in chains:
        assert held(index, keys) == [dict(row) for row in table.lookup(keys)]
    assert all(node.client().dbsize() for node in any_cluster.nodes)


@pytest.mark.slow
def test_contents_move_from_a_cluster_to_one_server_and_back(any_cluster: RedisCluster) -> None:
    index = open_index(any_cluster.url, buckets=16)
    keys = chain(700)
    index.replace([3, 4], told(ADD, 3, keys) + told(ADD, 4, keys, last=100))
    content = list(index.export())
    index.remove_lanes([3, 4])
    for _ in range(40):
        index.tend()
    assert index.statistics()[0]["entries"] == 0
    index.load(content)
    assert (blocks_of(index, keys, 3), blocks_of(index, keys, 4)) == (700, 100)
