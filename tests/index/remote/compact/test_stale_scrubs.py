"""Lanes that were dead before a flush are not taken out of what lives after it under their numbers."""

from __future__ import annotations

from tests.index.remote.compact.records import ADD, blocks_of, chain, open_index, told
from tests.servers.redis_server import RedisServer

N_KEYS = 128 * 256


def test_a_walk_for_dead_lanes_ends_with_the_index_that_it_began_in(redis_server: RedisServer) -> None:
    index = open_index(redis_server.url)
    keys = chain(N_KEYS)
    index.apply([told(ADD, 1, keys)])
    index.remove_lane(1)
    index.tend()
    assert index.statistics()[0]["dead_lanes"] == 1  # it is in the middle of the walk
    redis_server.command("FLUSHALL")
    index.begin()
    index.apply([told(ADD, 2, keys)])
    for _ in range(8):
        index.tend()
    assert blocks_of(index, keys, 2) == N_KEYS
