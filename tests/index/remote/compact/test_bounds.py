"""Lifetimes and the bound on blocks."""

from __future__ import annotations

import pytest

from tests.index.remote.compact.records import ADD, blocks_of, chain, open_index, told
from tests.servers.redis_server import RedisServer

LOSSY = 2


@pytest.mark.slow
def test_blocks_beyond_the_bound_go_segment_by_segment_oldest_first(redis_server: RedisServer) -> None:
    index = open_index(redis_server.url, blocks_max=2048)
    chains = [chain(256, seed) for seed in range(20)]
    client = redis_server.client()
    for lane, keys in enumerate(chains):
        index.apply([told(ADD, lane, keys)])
        # What is older, by the clock of the test.
        for tag, _ in client.zscan_iter("{kvatlas:0}:use"):
            client.zincrby("{kvatlas:0}:use", -10, tag)
    for _ in range(5):
        index.tend()
    figures = index.statistics()[0]
    assert figures["entries"] <= 2048
    assert figures["evicted_blocks"] == 20 * 256 - figures["entries"]
    assert blocks_of(index, chains[19], 19) == 256
    assert blocks_of(index, chains[0], 0) == 0
    flags = {int(lane): value[4] for lane, value in client.hgetall("{kvatlas:fleet}:lanes").items()}
    assert flags[0] == LOSSY
    assert flags[19] == 0


def test_a_bound_holds_while_batches_go_on_without_anybody_who_tends(redis_server: RedisServer) -> None:
    index = open_index(redis_server.url, blocks_max=4096, buckets=2)
    for seed in range(60):
        index.apply([told(ADD, 1, chain(512, seed))])
    assert index.statistics()[0]["entries"] <= 4096 + 2048


def test_what_nobody_used_for_its_lifetime_goes_and_what_is_matched_stays(redis_server: RedisServer) -> None:
    index = open_index(redis_server.url, ttl_s=3600)
    used, unused = chain(128, 1), chain(128, 2)
    index.apply([told(ADD, 1, used) + told(ADD, 1, unused)])
    client = redis_server.client()
    for tag, _ in client.zscan_iter("{kvatlas:0}:use"):
        client.zincrby("{kvatlas:0}:use", -3700, tag)
    for _ in range(32):
        index.match(used)
    for _ in range(3):
        index.tend()
    assert (blocks_of(index, used, 1), blocks_of(index, unused, 1)) == (128, 0)
    figures = index.statistics()[0]
    assert (figures["entries"], figures["server_expired_blocks"]) == (128, 128)


def test_the_server_forgets_all_by_itself_where_nobody_comes_back(redis_server: RedisServer) -> None:
    index = open_index(redis_server.url, ttl_s=60)
    index.apply([told(ADD, 1, chain(300))])
    client = redis_server.client()
    names = list(client.keys("{kvatlas:0}*"))
    assert len(names) == 5
    assert all(0 < client.ttl(name) <= 180 for name in names)
