"""What is read stays, what the server's bounds cost is said, and whoever reads keys as the server does."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from kvatlas import RemoteIndexError
from kvatlas.index.remote.fleet.opening import open_index
from kvatlas.ingest.metrics import AtlasCollector
from tests.ingest.plain_batches import batch, stored
from tests.ingest.remote.shared_atlas import (
    FIRST,
    MODEL,
    QUICK,
    TOKENS,
    closing,
    held_by_index,
    held_by_mirrors,
    new_atlas,
    new_reader,
    settle,
    status_of,
)
from tests.servers.redis_server import RedisServer, wait_until

OTHER_TOKENS = [7] * 64
OTHER = batch(stored([11, 12], OTHER_TOKENS[:32]))
USE = "{kvatlas:0}:use"


def age(server: RedisServer, by_s: int) -> None:
    """By the server's word, all segments were used so much longer ago."""
    client = server.client()
    for segment, _ in client.zscan_iter(USE):
        client.zincrby(USE, -by_s, segment)


@pytest.mark.slow
@pytest.mark.parametrize("who", ["reader", "atlas"])
def test_what_is_read_outlives_its_time_and_the_rest_goes(who: str, redis_server: RedisServer) -> None:
    atlas = new_atlas(redis_server, ttl_s=3600)
    reader = new_reader(redis_server, ttl_s=3600)
    asked = reader if who == "reader" else atlas
    with closing(atlas, reader):
        atlas.ingest(b"kv@a@m", 0, FIRST)
        atlas.ingest(b"kv@a@m", 1, OTHER)
        settle(atlas, reader=reader)
        client = redis_server.client()
        age(redis_server, 3000)

        def is_heard() -> bool:
            assert dict(asked.score(TOKENS, model=MODEL)) == {"a": 2.0}
            by_age: Any = client.zrange(USE, 0, -1, withscores=True)
            return bool(by_age[-1][1] - by_age[0][1] > 2000)

        wait_until(is_heard, what="the server hears which segment is read")
        age(redis_server, 1000)
        # Not by a score of it, which is a use.
        wait_until(lambda: client.zcard(USE) == 1, what="the other one goes")
        assert dict(reader.score(OTHER_TOKENS, model=MODEL)) == {}
        assert dict(reader.score(TOKENS, model=MODEL)) == {"a": 2.0}
        for said in (lambda: status_of(atlas).reader.server, lambda: reader.status().server):
            wait_until(lambda said=said: (server := said()) is not None and server.expired == 2)  # type: ignore[misc]


@pytest.mark.slow
def test_what_the_bound_on_blocks_costs_is_said(redis_server: RedisServer) -> None:
    atlas = new_atlas(redis_server, blocks_max=1024)
    reader = new_reader(redis_server, blocks_max=1024)
    with closing(atlas, reader):
        for n in range(40):
            tokens = [n] * 16 * 64
            atlas.ingest(b"kv@a@m", n, batch(stored(list(range(64 * n, 64 * n + 64)), tokens)))
        settle(atlas, reader=reader)
        held = sum(map(len, held_by_mirrors(atlas).values()))

        def is_said() -> bool:
            said = [status_of(atlas).reader.server, reader.status().server]
            return all(
                server is not None and server.blocks <= 1024 and server.evicted + server.blocks == held
                for server in said
            )

        wait_until(is_said)
        registry = CollectorRegistry()
        registry.register(AtlasCollector(atlas))
        dropped = registry.get_sample_value("kvatlas_server_dropped_blocks_total", {"why": "budget"})
        assert dropped is not None and dropped >= held - 1024
        blocks = registry.get_sample_value("kvatlas_server_blocks")
        assert blocks is not None and blocks + dropped == held
        assert registry.get_sample_value("kvatlas_server_reached") == 1


def test_a_reader_before_any_writer_is_told_so(any_server: RedisServer) -> None:
    with pytest.raises(RemoteIndexError, match="no writer yet"):
        open_index(any_server.url, timeout_ms=5000)
    with pytest.raises(RemoteIndexError, match="127"):
        open_index("redis://127.0.0.1:1", timeout_ms=100)


def test_a_reader_comes_alive_with_the_next_writer(redis_server: RedisServer) -> None:
    first = new_atlas(redis_server)
    reader = new_reader(redis_server)
    with closing(reader):
        with closing(first):
            settle(first, reader=reader)
        reader.refresh()
        assert not reader.status().is_whole and reader.pods() == ()
        second = new_atlas(redis_server)
        with closing(second):
            second.ingest(b"kv@a@m", 0, FIRST)
            wait_until(lambda: dict(reader.score(TOKENS, model=MODEL)) == {"a": 2.0})
            settle(second, reader=reader)
            assert reader.score(TOKENS, model=MODEL).is_whole
            assert held_by_index(reader) == held_by_mirrors(second)


def test_after_a_flush_a_reader_keys_as_whoever_came_first(any_server: RedisServer) -> None:
    """Nobody was given a seed: it lies in the server, and another is made there."""
    first = new_atlas(any_server, hash_seed=None)
    reader = new_reader(any_server, hash_seed=None)
    with closing(reader):
        with closing(first):
            first.ingest(b"kv@a@m", 0, FIRST)
            settle(first, reader=reader)
        any_server.flush()
        second = new_atlas(any_server, hash_seed=None)
        with closing(second):
            second.ingest(b"kv@b@m", 0, FIRST)
            wait_until(lambda: dict(reader.score(TOKENS, model=MODEL)) == {"b": 2.0})
            settle(second, reader=reader)
            assert reader.score(TOKENS, model=MODEL).is_whole
            assert reader.status().counts["other_keys"] == 1


def test_a_reader_that_was_given_another_seed_says_so_and_vouches_for_nothing(
    redis_server: RedisServer,
) -> None:
    first = new_atlas(redis_server)
    reader = new_reader(redis_server)
    with closing(reader):
        with closing(first):
            settle(first, reader=reader)
        redis_server.flush()
        second = new_atlas(redis_server, hash_seed="other")
        with closing(second):
            second.ingest(b"kv@a@m", 0, FIRST)
            settle(second, reader=reader)
            wait_until(lambda: "hash_seed: expected that of" in reader.status().says)
            status = reader.status()
            assert status.is_reached and not status.is_trusted and not status.is_whole
            scores = reader.score(TOKENS, model=MODEL)
            assert dict(scores) == {} and not scores.is_whole
            assert [view.state for view in reader.pods()] == ["DEGRADED"]
        redis_server.flush()
        third = new_atlas(redis_server)
        with closing(third):
            third.ingest(b"kv@a@m", 0, FIRST)
            wait_until(lambda: dict(reader.score(TOKENS, model=MODEL)) == {"a": 2.0})
            settle(third, reader=reader)
            assert reader.score(TOKENS, model=MODEL).is_whole and reader.status().says == ""


@pytest.mark.slow
def test_a_reader_that_is_not_asked_does_not_ask_the_server_all_the_time(redis_server: RedisServer) -> None:
    """What matches have seen is older than what it knows: no news."""
    atlas = new_atlas(redis_server)
    with closing(atlas):
        settle(atlas)
        seldom = msgspec.structs.replace(QUICK, refresh_s=3600.0)
        with open_index(redis_server.url, hash_seed="s", sharing=seldom, timeout_ms=5000) as reader:
            assert dict(reader.score(TOKENS, model=MODEL)) == {}
            atlas.ingest(b"kv@a@m", 0, FIRST)
            settle(atlas)
            reader.refresh()
            for _ in range(500):
                redis_server.client().ping()
            assert reader.status().counts["refreshes"] <= 4
