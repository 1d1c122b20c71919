"""Batches that tell of one block of each segment, as engines do that decode many sequences."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from kvatlas.index._native import Table
from kvatlas.index.remote.compact.remote_index import RemoteIndex
from kvatlas.index.remote.connection.failures import ServerError
from tests.index.remote.compact.records import ADD, CPU, GPU, REMOVE, chain, held, open_index, told
from tests.servers.fixtures import ServerFactory
from tests.servers.redis_server import RedisServer

CHAINS = [chain(128, seed) for seed in range(300)]


def _lone(op: int, lane: int, place: int, chains: slice = slice(None), tiers: int = GPU) -> bytes:
    """Of each of these chains the block at one place."""
    return b"".join(told(op, lane, keys, tiers=tiers, first=place, last=place + 1) for keys in CHAINS[chains])


def _random_batch(rng: random.Random) -> bytes:
    out = b""
    for keys in rng.sample(CHAINS, rng.randrange(1, len(CHAINS) + 1)):
        first = rng.randrange(12)
        last = first + rng.choice((1, 1, 1, 1, 1, 3))
        op, lane, tiers = rng.choice((ADD, ADD, REMOVE)), rng.randrange(3), rng.choice((GPU, GPU, CPU, 63))
        out += told(op, lane, keys, tiers=tiers, first=first, last=last)
    return out


def _check_uses(server: RedisServer) -> None:
    """Every segment is known to `use`, and ends by itself where nobody comes back."""
    client: Any = server.client()
    segments = set(client.keys("*:s:*"))
    used = {
        b"%b:s:%b" % (name[:-4], tag) for name in client.keys("*:use") for tag in client.zrange(name, 0, -1)
    }
    assert segments <= used
    assert all(client.pttl(name) > 0 for name in segments)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "buckets"), [(1, 1), (2, 5)])
def test_random_lone_blocks_leave_what_they_leave_in_a_table(
    any_server: RedisServer, seed: int, buckets: int
) -> None:
    rng = random.Random(seed)
    table, index = Table(), open_index(any_server.url, buckets=buckets, ttl_s=3600)
    keys = np.concatenate([one[:16] for one in CHAINS])
    for number in range(30):
        batch = _random_batch(rng)
        table.apply(batch)
        index.apply([batch])
        if number % 10 == 9:
            assert [dict(row) for row in index.find(keys)] == [dict(row) for row in table.lookup(keys)]
            _check_uses(any_server)
    assert index.statistics()[0]["entries"] == sum(map(bool, table.lookup(keys)))


def test_a_segment_that_is_new_among_old_ones_is_noted(redis_server: RedisServer) -> None:
    index = open_index(redis_server.url, ttl_s=3600)
    index.apply([_lone(ADD, 1, 0, slice(0, None, 2))])
    index.apply([_lone(ADD, 1, 1)])
    _check_uses(redis_server)
    index.apply([_lone(REMOVE, 1, 0) + _lone(REMOVE, 1, 1)])
    assert redis_server.client().keys("*:s:*") == []
    index.apply([_lone(ADD, 1, 2)])
    _check_uses(redis_server)


def test_blocks_that_others_hold_gain_a_lane_and_lose_it(redis_server: RedisServer) -> None:
    index = open_index(redis_server.url)
    for lane, tiers in ((1, GPU), (2, CPU), (3, GPU)):
        index.apply([_lone(ADD, lane, 5, tiers=tiers)])
    index.apply([_lone(ADD, 2, 5) + _lone(ADD, 2, 6, slice(0, 10))])
    index.apply([_lone(REMOVE, 1, 5)])
    assert [held(index, keys)[5] for keys in CHAINS[::50]] == [{2: GPU | CPU, 3: GPU}] * 6
    figures = index.statistics()[0]
    assert (figures["entries"], figures["adds"], figures["removes"]) == (310, 310, 0)
    index.apply([_lone(REMOVE, 1, 5)])
    index.apply([_lone(REMOVE, 1, 7)])
    assert index.statistics()[0]["removes_missing"] == 600


def test_a_lone_batch_that_is_sent_again_changes_nothing(redis_server: RedisServer) -> None:
    index = open_index(redis_server.url)
    index.apply([_lone(ADD, 1, 0) + _lone(ADD, 2, 1)])
    batch = _lone(REMOVE, 1, 0, slice(0, 100)) + _lone(ADD, 1, 2, slice(100, None))
    for _ in range(2):
        index.apply([batch])
        assert index.statistics()[0]["entries"] == 300 - 100 + 300 + 200


def _segment(server: RedisServer, index: RemoteIndex, place: int) -> Any:
    """The key of the segment of one chain."""
    before = set(server.client().keys("*:s:*"))
    index.apply([told(ADD, 9, CHAINS[place], first=100)])
    (name,) = set(server.client().keys("*:s:*")) - before
    return name


def test_a_segment_that_is_no_hash_is_counted_and_left_and_the_others_are_told(
    redis_server: RedisServer,
) -> None:
    index = open_index(redis_server.url)
    segment = _segment(redis_server, index, 40)
    client: Any = redis_server.client()
    client.delete(segment)
    client.set(segment, "foreign")
    index.apply([_lone(ADD, 1, 0)])
    rows = [held(index, keys)[0] for keys in CHAINS]
    assert rows == [{} if place == 40 else {1: GPU} for place in range(300)]
    index.apply([_lone(REMOVE, 1, 0)])
    assert index.statistics()[0]["foreign_values"] >= 2
    assert client.get(segment) == b"foreign"


@pytest.mark.parametrize("value", [b"", b"\x01", b"abcde"])
def test_a_foreign_value_of_a_lone_block_is_written_over_and_counted(
    redis_server: RedisServer, value: bytes
) -> None:
    index = open_index(redis_server.url)
    segment = _segment(redis_server, index, 40)
    client: Any = redis_server.client()
    client.hset(segment, CHAINS[40][:1].tobytes(), value)
    index.apply([_lone(ADD, 1, 0)])
    assert all(held(index, keys)[0] == {1: GPU} for keys in CHAINS)
    assert index.statistics()[0]["foreign_values"] == (len(value) % 4 > 0)


def test_a_full_server_takes_lone_removals_and_no_lone_blocks(start_server: ServerFactory) -> None:
    server = start_server()
    index = open_index(server.url)
    index.apply([_lone(ADD, 1, 0) + _lone(ADD, 2, 2)])
    client: Any = server.client()
    client.config_set("maxmemory", "1mb")
    with pytest.raises(ServerError, match="OOM") as caught:
        index.apply([_lone(ADD, 2, 1)])
    assert caught.value.reason == "full"
    assert client.dbsize() == 300 + 5
    assert all(held(index, keys)[:3] == [{1: GPU}, {}, {2: GPU}] for keys in CHAINS[::50])
    index.apply([_lone(ADD, 2, 1, slice(100)) + _lone(REMOVE, 1, 0, slice(100, None))])
    assert [held(index, keys)[:2] for keys in CHAINS[::150]] == [[{1: GPU}, {2: GPU}], [{}, {}]]
