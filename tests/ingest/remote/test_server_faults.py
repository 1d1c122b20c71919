"""What becomes of an atlas, its readers and their answers when the index server fails, and after."""

from __future__ import annotations

import msgspec
import pytest

from kvatlas import ConfigError
from kvatlas.index.remote.fleet.settings import SharingSettings
from tests.ingest.plain_batches import batch, stored
from tests.ingest.remote.shared_atlas import (
    FIRST,
    MODEL,
    QUICK,
    SECOND,
    TOKENS,
    closing,
    held_by_index,
    held_by_mirrors,
    home_of,
    new_atlas,
    new_reader,
    settle,
    settle_equal,
    status_of,
    told_first,
)
from tests.servers.fixtures import ServerFactory
from tests.servers.redis_server import RedisServer, wait_until

FLEET = "{kvatlas:fleet}:"


def test_a_flushed_server_gets_everything_again(any_server: RedisServer) -> None:
    with told_first(any_server) as (atlas, reader):
        before = status_of(atlas).writer.session
        any_server.flush()
        atlas.ingest(b"kv@a@m", 1, SECOND)
        wait_until(lambda: status_of(atlas).writer.session not in (0, before))
        settle_equal(atlas, reader=reader)
        assert dict(reader.score(TOKENS, model=MODEL)) == {"a": 3.0}


def test_an_idle_writer_notices_a_flush_by_its_heartbeat(redis_server: RedisServer) -> None:
    sharing = msgspec.structs.replace(QUICK, lease_s=0.6)
    with told_first(redis_server, sharing=sharing) as (_atlas, reader):
        redis_server.flush()
        wait_until(lambda: dict(reader.score(TOKENS, model=MODEL)) == {"a": 2.0})


@pytest.mark.slow
def test_an_idle_writer_notices_that_a_part_of_the_index_is_lost(redis_server: RedisServer) -> None:
    """One node of a cluster was emptied; the session, on another node, goes on."""
    with told_first(redis_server) as (atlas, reader):
        session = status_of(atlas).writer.session
        redis_server.command("DEL", *redis_server.client().keys("{kvatlas:0}:*"))
        wait_until(lambda: dict(reader.score(TOKENS, model=MODEL)) == {"a": 2.0})
        assert status_of(atlas).writer.counts["resyncs"] == 1
        assert status_of(atlas).writer.session == session


@pytest.mark.slow
def test_an_idle_writer_notices_that_its_last_writes_are_lost(redis_server: RedisServer) -> None:
    """A replica that had not heard them took over."""
    atlas, reader = new_atlas(redis_server), new_reader(redis_server)
    with closing(atlas, reader):
        atlas.ingest(b"kv@a@m", 0, FIRST)
        atlas.ingest(b"kv@a@m", 1, SECOND)
        settle(atlas, reader=reader)
        life, client = "{kvatlas:0}:life", redis_server.client()
        (segment,) = client.keys("{kvatlas:0}:s:*")
        client.hincrby(life, f"seq:{status_of(atlas).writer.session}", -1)
        client.delete(segment)
        wait_until(lambda: dict(reader.score(TOKENS, model=MODEL)) == {"a": 3.0})
        settle_equal(atlas, reader=reader)


@pytest.mark.slow
def test_a_reader_says_that_a_flushed_server_is_not_whole(redis_server: RedisServer) -> None:
    atlas, reader = new_atlas(redis_server), new_reader(redis_server)
    with closing(reader), closing(atlas):
        atlas.ingest(b"kv@a@m", 0, FIRST)
        settle(atlas, reader=reader)
        assert reader.score(TOKENS, model=MODEL).is_whole
        home_of(atlas).writer._thread.stop()  # it writes nothing again
        redis_server.flush()
        scores = reader.score(TOKENS, model=MODEL)
        assert dict(scores) == {} and not scores.is_whole


def test_a_restarted_server_gets_everything_again(start_server: ServerFactory) -> None:
    server = start_server()
    with told_first(server) as (atlas, reader):
        server.kill()
        atlas.ingest(b"kv@a@m", 1, SECOND)
        wait_until(lambda: not status_of(atlas).writer.is_reached)
        assert dict(reader.score(TOKENS, model=MODEL)) == {}
        server.start()
        wait_until(lambda: dict(reader.score(TOKENS, model=MODEL)) == {"a": 3.0})
        settle_equal(atlas, reader=reader)
        assert reader.status().is_reached


def test_a_server_that_is_down_holds_nothing_and_says_so(start_server: ServerFactory) -> None:
    server = start_server()
    with told_first(server) as (atlas, reader):
        server.stop()
        for looker in (atlas, reader):
            scores = looker.score(TOKENS, model=MODEL)
            assert dict(scores) == {} and not scores.is_whole
            assert looker.explain(TOKENS, model=MODEL) is not None
            assert looker.look(TOKENS, model=MODEL).matches.is_whole is False
        status = reader.status()
        assert not status.is_reached and "index server not reached for" in status.says
        assert [view.state for view in reader.pods()] == ["DEGRADED"]
        wait_until(lambda: "s: " in status_of(atlas).reader.says)


def test_a_paused_server_holds_nobody_longer_than_the_time_limit(start_server: ServerFactory) -> None:
    server = start_server()
    with told_first(server, timeout_ms=50) as (atlas, reader):
        server.pause()
        try:
            for _ in range(3):
                scores = reader.score(TOKENS, model=MODEL)
                assert dict(scores) == {} and not scores.is_whole
            atlas.ingest(b"kv@a@m", 1, SECOND)
        finally:
            server.resume()
        wait_until(lambda: dict(reader.score(TOKENS, model=MODEL)) == {"a": 3.0})
        settle_equal(atlas, reader=reader)


def test_changes_beyond_what_may_wait_are_loaded_anew(start_server: ServerFactory) -> None:
    server = start_server()
    sharing = msgspec.structs.replace(QUICK, gathered_bytes_max=4096)
    with told_first(server, sharing=sharing) as (atlas, reader):
        server.pause()
        try:
            for n in range(200):
                tokens = [n * 100 + 7] * 32
                atlas.ingest(b"kv@a@m", 1 + n, batch(stored([1000 + 2 * n, 1001 + 2 * n], tokens)))
        finally:
            server.resume()
        wait_until(lambda: status_of(atlas).writer.counts.get("lost", 0) > 0)
        settle_equal(atlas, reader=reader)


def test_an_atlas_begins_while_the_server_is_down(start_server: ServerFactory) -> None:
    server = start_server()
    server.stop()
    atlas = new_atlas(server)
    with closing(atlas):
        atlas.ingest(b"kv@a@m", 0, FIRST)
        assert dict(atlas.score(TOKENS, model=MODEL)) == {}
        server.start()
        wait_until(lambda: dict(atlas.score(TOKENS, model=MODEL)) == {"a": 2.0})


@pytest.mark.slow
def test_a_session_that_others_ended_begins_anew(redis_server: RedisServer) -> None:
    sharing = msgspec.structs.replace(QUICK, lease_s=0.6)
    one, two = new_atlas(redis_server, sharing=sharing), new_atlas(redis_server, sharing=sharing)
    reader = new_reader(redis_server)
    with closing(one, two, reader):
        one.ingest(b"kv@a@m", 0, FIRST)
        two.ingest(b"kv@b@m", 0, FIRST)
        settle(one, two, reader=reader)
        session = status_of(one).writer.session
        redis_server.command("HDEL", FLEET + "sessions", str(session))
        redis_server.command("SADD", FLEET + "over", str(session))
        wait_until(lambda: status_of(one).writer.session not in (0, session))
        one.ingest(b"kv@a@m", 1, SECOND)
        settle_equal(one, two, reader=reader)
        assert status_of(one).writer.counts["sessions_over"] == 1
        wait_until(lambda: redis_server.client().scard(FLEET + "over") == 0)
        assert held_by_index(reader) == held_by_mirrors(one, two)


@pytest.mark.slow
def test_a_full_server_is_said_and_heals(start_server: ServerFactory) -> None:
    server = start_server()
    with told_first(server) as (atlas, reader):
        server.command("CONFIG", "SET", "maxmemory", "1")
        atlas.ingest(b"kv@a@m", 1, SECOND)
        wait_until(lambda: status_of(atlas).writer.phase == "short")

        def is_told() -> bool:
            reader.refresh()
            return not reader.status().is_whole and [view.state for view in reader.pods()] == ["PARTIAL"]

        wait_until(is_told)
        assert "memory is full" in str(reader.status().sessions) and "OOM" in status_of(atlas).writer.says
        assert dict(reader.score(TOKENS, model=MODEL)) == {"a": 2.0}
        server.command("CONFIG", "SET", "maxmemory", "0")
        wait_until(lambda: dict(reader.score(TOKENS, model=MODEL)) == {"a": 3.0})
        settle_equal(atlas, reader=reader)


def test_foreign_parts_are_counted_and_nothing_else(redis_server: RedisServer) -> None:
    with told_first(redis_server) as (_atlas, reader):
        for part in (b"\xc1", b"", b"\x80" * 10, b"x" * 100, b"\x81\xa6format\x63"):
            redis_server.client().hset(FLEET + "parts", "77", part)
            redis_server.command("INCR", FLEET + "version")
            reader.refresh()
            scores = reader.score(TOKENS, model=MODEL)
            assert dict(scores) == {"a": 2.0} and not scores.is_whole
        assert reader.status().counts["unreadable_parts"] == 5


def test_settings_say_what_is_wrong_with_them() -> None:
    with pytest.raises(ConfigError, match="expected more than trust_s"):
        SharingSettings(lane_rest_s=5.0, trust_s=5.0)
    with pytest.raises(ConfigError, match="lease_s: expected a number"):
        SharingSettings(lease_s=0)
