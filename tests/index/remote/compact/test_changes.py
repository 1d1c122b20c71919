"""Changes as several writers make them, and as the script executes them."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from kvatlas.index._native import Table, content_of
from kvatlas.index.errors import InputError
from kvatlas.index.remote.compact.remote_index import RemoteIndex
from kvatlas.index.remote.connection.commands import Command
from tests.index.remote.compact.records import (
    ADD,
    CPU,
    GPU,
    REMOVE,
    Keys,
    blocks_of,
    chain,
    cleared,
    closed,
    held,
    open_index,
    opened,
    told,
)
from tests.servers.redis_server import RedisServer

CHAINS = [chain(300, seed) for seed in range(4)]


def _random_batch(rng: random.Random) -> bytes:
    out = b""
    for _ in range(rng.randint(1, 8)):
        keys = rng.choice(CHAINS)
        first = rng.randrange(len(keys))
        last = rng.randint(first, min(len(keys), first + rng.choice((1, 16, 200))))
        lane, tiers = rng.randrange(6), rng.choice((GPU, CPU, GPU | CPU, 32))
        out += (
            cleared(lane)
            if rng.random() < 0.1
            else told(rng.choice((ADD, ADD, REMOVE)), lane, keys, tiers=tiers, first=first, last=last)
        )
    return out


def _of_table(table: Table, keys: Keys) -> list[dict[int, int]]:
    return [dict(holders) for holders in table.lookup(keys)]


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "buckets"), [(1, 1), (2, 5), (3, 1), (4, 5)])
def test_random_batches_leave_what_they_leave_in_a_table(
    any_server: RedisServer, seed: int, buckets: int
) -> None:
    rng = random.Random(seed)
    table, index = Table(), open_index(any_server.url, buckets=buckets)
    for number in range(60):
        batch = _random_batch(rng)
        table.apply(batch)
        index.apply([batch])
        if number % 20 == 19:
            for _ in range(20):
                index.tend()
        keys = CHAINS[number % len(CHAINS)]
        assert held(index, keys) == _of_table(table, keys)
    assert index.statistics()[0]["entries"] == sum(
        bool(row) for keys in CHAINS for row in _of_table(table, keys)
    )


def test_a_batch_that_is_sent_again_changes_nothing(redis_server: RedisServer) -> None:
    index = open_index(redis_server.url)
    keys = CHAINS[0]
    batch = told(ADD, 3, keys) + told(REMOVE, 3, keys, first=250) + cleared(4) + told(ADD, 4, keys, last=9)
    for _ in range(2):
        index.apply([batch])
        assert (blocks_of(index, keys, 3), blocks_of(index, keys, 4)) == (250, 9)
    assert index.statistics()[0]["entries"] == 250


def test_one_batch_is_one_round_trip_where_lanes_are_known(redis_server: RedisServer) -> None:
    index = open_index(redis_server.url)
    keys = chain(20_000, 9)
    index.apply([told(ADD, 1, keys[:10])])
    connection = index._server.connection
    trips: list[int] = []
    run = connection.run

    def counted(commands: Sequence[Command], **named: Any) -> list[Any]:
        trips.append(len(commands))
        return run(commands, **named)

    connection.run = counted  # type: ignore[method-assign]
    index.apply([told(ADD, 1, keys)])
    assert len(trips) == 1
    trips.clear()
    index.match(keys[:512])
    index.match(keys[:512])
    assert len(trips) <= 4  # the first reads the lanes
    trips.clear()
    index.match(keys[:512])
    assert len(trips) == 1


def test_two_writers_of_one_lane_both_count(redis_server: RedisServer) -> None:
    one, two = open_index(redis_server.url), open_index(redis_server.url)
    keys = CHAINS[1]
    one.apply([told(ADD, 7, keys, last=100)])
    two.apply([told(ADD, 7, keys, first=100)])
    assert blocks_of(one, keys, 7) == 300
    one.apply([cleared(7)])
    assert blocks_of(two, keys, 7) == 0
    two.apply([told(ADD, 7, keys, last=50)])  # its map is old: what it tells goes to the lane as it is now
    assert blocks_of(one, keys, 7) == 50


def test_a_lane_is_seen_as_before_or_as_after_while_it_is_replaced(redis_server: RedisServer) -> None:
    index, reader = open_index(redis_server.url), open_index(redis_server.url)
    keys = chain(2000, 5)
    index.apply([told(ADD, 1, keys, last=1000) + told(ADD, 2, keys, last=1000)])
    seen: set[tuple[int, int]] = set()
    is_over = threading.Event()

    def look() -> None:
        while not is_over.is_set():
            rows = held(reader, keys)
            seen.add((sum(1 in row for row in rows), sum(2 in row for row in rows)))

    thread = threading.Thread(target=look)
    thread.start()
    for _ in range(5):
        index.replace([1, 2], told(ADD, 1, keys) + told(ADD, 2, keys))
        index.replace([1, 2], told(ADD, 1, keys, last=1000) + told(ADD, 2, keys, last=1000))
    is_over.set()
    thread.join()
    assert seen <= {(1000, 1000), (2000, 2000)}


def test_a_lane_that_is_cleared_while_it_is_replaced_stays_empty(redis_server: RedisServer) -> None:
    index, other = open_index(redis_server.url), open_index(redis_server.url)
    keys = CHAINS[2]
    index.apply([told(ADD, 1, keys)])
    fill = RemoteIndex._fill

    def fill_and_clear(self: RemoteIndex, begun: int, delta: bytes, phys_of: dict[int, int]) -> None:
        fill(self, begun, delta, phys_of)
        other.apply([cleared(1)])

    index._fill = fill_and_clear.__get__(index)  # type: ignore[method-assign]
    index.replace([1], told(ADD, 1, keys))
    assert blocks_of(index, keys, 1) == 0


def test_a_content_of_other_lanes_is_refused_and_changes_nothing(redis_server: RedisServer) -> None:
    index = open_index(redis_server.url)
    index.apply([told(ADD, 1, CHAINS[0])])
    with pytest.raises(InputError, match="lane 2"):
        index.replace([1], told(ADD, 2, CHAINS[0]))
    assert blocks_of(index, CHAINS[0], 1) == 300


def test_what_a_writer_says_of_closedness_is_in_the_content(redis_server: RedisServer) -> None:
    index = open_index(redis_server.url)
    index.apply([told(ADD, 1, CHAINS[0]) + closed(1) + told(ADD, 2, CHAINS[0])])
    index.apply([closed(3)])
    index.apply([told(ADD, 3, CHAINS[0])])
    (section,) = index.export()
    assert list(content_of(section).closed) == [1, 3]
    index.apply([opened(1) + cleared(3) + told(ADD, 3, CHAINS[0])])
    (section,) = index.export()
    assert not list(content_of(section).closed)
    assert blocks_of(index, CHAINS[0], 1) == 300


def test_dead_lanes_are_taken_out_by_and_by(redis_server: RedisServer) -> None:
    index = open_index(redis_server.url)
    for lane, keys in enumerate(CHAINS):
        index.apply([told(ADD, lane, keys) + told(ADD, 9, keys)])
    index.remove_lanes([0, 1, 2, 3])
    for _ in range(30):
        index.tend()
    figures = index.statistics()[0]
    assert (figures["dead_lanes"], figures["lanes"], figures["entries"]) == (0, 1, 1200)
    index.remove_lane(9)
    for _ in range(30):
        index.tend()
    assert index.statistics()[0]["entries"] == 0
    assert redis_server.client().keys("*:s:*") == []


def test_keys_are_found_wherever_they_lie(redis_server: RedisServer) -> None:
    index = open_index(redis_server.url, buckets=3)
    index.apply([told(ADD, 5, CHAINS[0]) + told(ADD, 6, CHAINS[0], tiers=CPU, last=200)])
    assert index.find(CHAINS[0][[150, 250]]) == [[(5, GPU), (6, CPU)], [(5, GPU)]]
    assert index.find(CHAINS[1][:2]) == [[], []]
