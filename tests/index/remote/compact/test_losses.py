"""Servers that lose what they were told, sessions that are over, other formats, full memory, foreign data."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Sequence
from typing import Any

import pytest

from kvatlas.index.errors import RemoteIndexError
from kvatlas.index.remote.compact.remote_index import RemoteIndex
from kvatlas.index.remote.connection.commands import Command
from kvatlas.index.remote.connection.failures import ServerError
from kvatlas.index.remote.resync import ResyncNeeded, SessionOver
from tests.index.remote.compact.records import ADD, REMOVE, blocks_of, chain, cleared, held, open_index, told
from tests.servers.faults import faulty
from tests.servers.fixtures import ServerFactory
from tests.servers.redis_server import RedisServer

KEYS = chain(300)
SESSIONS = "{kvatlas:fleet}:sessions"


def _session(server: RedisServer, number: int) -> RemoteIndex:
    server.client().hset(SESSIONS, str(number), "1")
    index = open_index(server.url)
    index.begin(number)
    return index


def test_a_flushed_server_is_noticed_by_the_next_batch(any_server: RedisServer) -> None:
    index = _session(any_server, 5)
    index.apply([told(ADD, 1, KEYS)])
    any_server.client().flushall()
    for _ in range(2):
        with pytest.raises(ResyncNeeded, match="expected"):
            index.apply([told(ADD, 1, KEYS)])
    any_server.client().hset(SESSIONS, "5", "1")
    index.begin(5)
    index.replace([1], told(ADD, 1, KEYS, last=40))
    index.apply([told(ADD, 1, KEYS, first=40, last=50)])
    assert blocks_of(index, KEYS, 1) == 50


def test_a_flushed_server_is_noticed_by_the_next_match(any_server: RedisServer) -> None:
    index, reader = open_index(any_server.url), open_index(any_server.url)
    index.apply([told(ADD, 1, KEYS)])
    reader.roster.set(1, [1], [])
    assert reader.match(KEYS).is_whole
    any_server.client().flushall()
    for _ in range(2):
        found = reader.match(KEYS)
        assert (found.is_whole, len(found.workers)) == (False, 0)
    index.begin()
    index.apply([told(ADD, 2, KEYS)])
    assert blocks_of(reader, KEYS, 1) == 0
    assert blocks_of(reader, KEYS, 2) == 300
    assert reader.statistics()[0]["lives_changed"] >= 1


def test_lanes_of_before_a_flush_are_not_those_of_after(redis_server: RedisServer) -> None:
    """Numbers begin anew there, versions too: a reader that did not look meanwhile sees no phantom."""
    index, reader = open_index(redis_server.url), open_index(redis_server.url)
    index.apply([told(ADD, 1, KEYS)])
    assert blocks_of(reader, KEYS, 1) == 300
    redis_server.client().flushall()
    index.begin()
    index.apply([told(ADD, 2, KEYS)])
    assert held(reader, KEYS[:1]) == [{2: 1}]


def test_a_fleet_that_is_lost_alone_gives_no_number_twice(redis_server: RedisServer) -> None:
    """As a node of a cluster that comes back empty, while the buckets' nodes have all."""
    index = open_index(redis_server.url)
    index.apply([told(ADD, 1, KEYS)])
    client = redis_server.client()
    client.delete(*client.keys("{kvatlas:fleet}*"))
    with pytest.raises(ResyncNeeded):
        index.apply([told(ADD, 1, KEYS)])
    index.begin()
    index.apply([told(ADD, 2, KEYS, first=299)])
    assert held(index, KEYS)[:299] == [{}] * 299


@pytest.mark.parametrize("blocks", [20, 10_000])
def test_batches_that_the_server_lost_are_noticed(redis_server: RedisServer, blocks: int) -> None:
    """As by a failover to a replica that had not seen the last call."""
    index, keys = _session(redis_server, 6), chain(10_000, 3)
    index.apply([told(ADD, 1, keys, last=10)])
    index.apply([told(ADD, 1, keys, last=blocks)])
    client: Any = redis_server.client()
    life = "{kvatlas:0}:life"
    last = int(client.hget(life, "seq:6"))
    client.hset(life, "seq:6", last - 1)
    with pytest.raises(ResyncNeeded):
        index.apply([told(ADD, 1, keys, last=30)])


def test_a_call_whose_answer_was_lost_is_told_again(redis_server: RedisServer) -> None:
    index, keys = _session(redis_server, 6), chain(10_000, 3)
    index.apply([told(ADD, 1, keys, last=10)])
    tell = index._server.tell

    def tell_and_lose(commands: Sequence[Command]) -> list[Any]:
        tell(commands)
        raise ServerError("the answer was lost", "timeout", is_sent=True)

    index._server.tell = tell_and_lose  # type: ignore[method-assign]
    with pytest.raises(ServerError):
        index.apply([told(ADD, 1, keys)])
    index._server.tell = tell  # type: ignore[method-assign]
    index.apply([told(ADD, 1, keys)])
    index.apply([told(REMOVE, 1, keys, first=9_000)])
    assert blocks_of(index, keys, 1) == 9_000


@pytest.mark.slow
def test_a_server_that_starts_again_empty_is_noticed(redis_server: RedisServer) -> None:
    index = open_index(redis_server.url)
    index.apply([told(ADD, 1, KEYS)])
    redis_server.restart()
    with pytest.raises(ResyncNeeded):
        _told_in_the_end(index, told(ADD, 1, KEYS))
    index.begin()
    index.replace([1], told(ADD, 1, KEYS))
    assert blocks_of(index, KEYS, 1) == 300


@pytest.mark.slow
def test_a_beginning_that_failed_does_not_hide_the_loss(redis_server: RedisServer) -> None:
    index = open_index(redis_server.url)
    index.apply([told(ADD, 1, KEYS)])
    redis_server.restart()
    redis_server.client().set("{kvatlas:fleet}:meta", "foreign")
    with pytest.raises(RemoteIndexError):
        index.begin()
    redis_server.flush()
    with pytest.raises(ResyncNeeded):
        _told_in_the_end(index, told(ADD, 1, KEYS))


def test_what_is_loaded_while_another_begins_is_not_shown(redis_server: RedisServer) -> None:
    """Its numbers are of before: others may have them now."""
    index = open_index(redis_server.url)
    index.apply([told(ADD, 1, KEYS)])
    fill = RemoteIndex._fill

    def begin_and_fill(self: RemoteIndex, begun: int, delta: bytes, phys_of: dict[int, int]) -> None:
        redis_server.client().flushall()
        self.begin()
        self.apply([told(ADD, 2, KEYS, last=5)])
        fill(self, begun, delta, phys_of)

    index._fill = begin_and_fill.__get__(index)  # type: ignore[method-assign]
    with pytest.raises(ResyncNeeded):
        index.replace([1], told(ADD, 1, KEYS))
    assert held(index, KEYS) == [{2: 1}] * 5 + [{}] * 295


FAULTS: dict[str, Any] = {
    "swallows_answers": True,
    "cut_after_bytes": 3,
    "garble": lambda piece: bytes(byte ^ 0x55 for byte in piece),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_answers_that_are_lost_cut_or_garbled_tear_nothing(redis_server: RedisServer, fault: str) -> None:
    keys = chain(3000, 8)
    with faulty(redis_server.port) as proxy:
        index = open_index(proxy.url, timeout_ms=500, write_timeout_ms=500)
        _told_in_the_end(index, told(ADD, 1, keys, last=10))
        setattr(proxy, fault, FAULTS[fault])
        with pytest.raises(RemoteIndexError):
            index.apply([told(ADD, 1, keys)])
        proxy.heal()
        _told_in_the_end(index, told(ADD, 1, keys))
        _told_in_the_end(index, told(REMOVE, 1, keys, first=2500))
        assert blocks_of(open_index(redis_server.url), keys, 1) == 2500


def _told_in_the_end(index: RemoteIndex, batch: bytes) -> None:
    """Until the connection, and the wait before another, let it pass."""
    for _ in range(10_000):
        with contextlib.suppress(ServerError):
            index.apply([batch])
            return
    pytest.fail("expected a server that can be asked again, got none in 10 000 attempts")


def test_a_session_that_is_over_gets_no_lanes(redis_server: RedisServer) -> None:
    index = _session(redis_server, 7)
    index.apply([told(ADD, 1, KEYS)])
    redis_server.client().hdel(SESSIONS, "7")
    for batch in (told(ADD, 2, KEYS), cleared(1)):
        with pytest.raises(SessionOver, match="session 7"):
            index.apply([batch])
    with pytest.raises(SessionOver, match="session 7"):
        index.remove_lane(1)


@pytest.mark.parametrize(("field", "value"), [("format", "2"), ("format", "x" * 99), ("buckets", "4")])
def test_an_index_of_another_format_is_refused(redis_server: RedisServer, field: str, value: str) -> None:
    open_index(redis_server.url).begin()
    redis_server.client().hset("{kvatlas:fleet}:meta", field, value)
    with pytest.raises(RemoteIndexError, match="format 1 in 1 buckets"):
        open_index(redis_server.url).begin()
    with pytest.raises(RemoteIndexError, match="format 1 in 1 buckets"):
        open_index(redis_server.url).match(KEYS)


def test_keys_of_another_type_are_one_clear_error(redis_server: RedisServer) -> None:
    for name in ("meta", "lanes"):
        redis_server.client().flushall()
        redis_server.client().set(f"{{kvatlas:fleet}}:{name}", "foreign")
        index = open_index(redis_server.url)
        with pytest.raises(RemoteIndexError, match="WRONGTYPE"):
            index.apply([told(ADD, 1, KEYS)])
        with pytest.raises(RemoteIndexError, match="WRONGTYPE"):
            index.match(KEYS)


def _segment(server: RedisServer) -> tuple[Any, bytes]:
    client: Any = server.client()
    return client, sorted(
        key for key in client.keys("*") if b":s:" in key and client.hexists(key, KEYS[:1].tobytes())
    )[0]


@pytest.mark.parametrize(
    "value", [b"x", b"\x00" * 4, b"\x01\x01\x00\x00" * 2, b"\xff" * 8, b"\x40\x01\x00\x00", b"\x00" * 4096]
)
def test_foreign_values_stand_for_nobody_and_are_counted(redis_server: RedisServer, value: bytes) -> None:
    index = open_index(redis_server.url)
    index.apply([told(ADD, 1, KEYS)])
    client, segment = _segment(redis_server)
    client.hset(segment, KEYS[:1].tobytes(), value)
    assert held(index, KEYS[:2]) == [{}, {1: 1}]
    assert index.statistics()[0]["foreign_values"] >= 1
    index.apply([told(REMOVE, 2, KEYS)])
    index.apply([told(ADD, 2, KEYS, first=1)])
    assert held(index, KEYS[:2])[1] == {1: 1, 2: 1}
    list(index.export())
    for _ in range(5):
        index.tend()


def test_a_segment_that_is_no_hash_is_counted_and_left(redis_server: RedisServer) -> None:
    index = open_index(redis_server.url)
    index.apply([told(ADD, 1, KEYS)])
    client, segment = _segment(redis_server)
    client.delete(segment)
    client.set(segment, "foreign")
    index.apply([told(ADD, 2, KEYS)])
    rows = held(index, KEYS)
    assert rows[0] == {}
    assert rows[128] == {1: 1, 2: 1}
    assert index.statistics()[0]["foreign_values"] >= 128
    assert client.get(segment) == b"foreign"


def test_what_is_foreign_in_the_lane_map_is_counted_and_stands_for_nobody(redis_server: RedisServer) -> None:
    index = open_index(redis_server.url)
    index.apply([told(ADD, 1, KEYS)])
    client = redis_server.client()
    client.hset("{kvatlas:fleet}:lanes", "nonsense", b"\x01\x00\x00\x00\x00")
    client.hset("{kvatlas:fleet}:lanes", "9", b"short")
    client.hset("{kvatlas:fleet}:lanes", "8", b"shor")
    client.incr("{kvatlas:fleet}:version")
    client.hdel("{kvatlas:fleet}:lanes", "9")
    assert blocks_of(index, KEYS, 1) == 300
    assert index.statistics()[0]["foreign_lanes"] >= 2
    client.hset("{kvatlas:fleet}:lanes", "9", client.hget("{kvatlas:fleet}:lanes", "1"))
    client.incr("{kvatlas:fleet}:version")
    assert held(index, KEYS[:1]) == [{}]  # two lanes claim it: which of them has it is not known
    assert index.statistics()[0]["foreign_lanes"] >= 4
    with pytest.raises(ResyncNeeded):  # by a number of a lane that nobody else claims, it goes on
        index.apply([told(ADD, 1, KEYS[:1])])


@pytest.mark.parametrize("phys", [0, 1 << 24, 0xFFFFFFFF])
def test_a_lane_with_an_impossible_physical_one_gets_another(redis_server: RedisServer, phys: int) -> None:
    index, reader = open_index(redis_server.url), open_index(redis_server.url)
    client = redis_server.client()
    client.hset("{kvatlas:fleet}:lanes", "1", phys.to_bytes(4, "little") + b"\0")
    index.apply([told(ADD, 1, KEYS)])
    assert blocks_of(reader, KEYS, 1) == 300
    client.hset("{kvatlas:fleet}:lanes", "2", phys.to_bytes(4, "little") + b"\0")
    client.incr("{kvatlas:fleet}:version")
    assert held(reader, KEYS[:1]) == [{1: 1}]
    assert reader.statistics()[0]["foreign_lanes"] >= 1


def test_lanes_whose_last_changes_were_lost_give_no_number_twice(redis_server: RedisServer) -> None:
    """As a node of a cluster that comes back with an older state, while the buckets' nodes have all."""
    index, other = open_index(redis_server.url), open_index(redis_server.url)
    other.begin()
    client = redis_server.client()
    names = client.keys("{kvatlas:fleet}*")
    older = {name: client.dump(name) for name in names}
    index.apply([told(ADD, 1, KEYS)])
    client.delete(*client.keys("{kvatlas:fleet}*"))
    for name, content in older.items():
        client.restore(name, 0, content or b"")
    with pytest.raises(ResyncNeeded):
        index.apply([told(ADD, 1, KEYS)])
    other.begin()
    other.apply([told(ADD, 2, KEYS, first=299)])
    assert held(other, KEYS)[:299] == [{}] * 299


@pytest.mark.parametrize(
    "elements", [(9 << 8 | 1, 2 << 8 | 1), (9 << 8 | 64,), (9 << 8,), (7 << 8 | 1, 7 << 8 | 2), (5,)]
)
def test_a_foreign_value_is_put_right_when_dead_lanes_are_taken_out(
    redis_server: RedisServer, elements: tuple[int, ...]
) -> None:
    index = open_index(redis_server.url)
    index.apply([told(ADD, 1, KEYS[:1])])
    client = redis_server.client()
    (segment,) = client.keys("{kvatlas:0}:s:*")
    (field,) = client.hkeys(segment)
    client.hset(segment, field, struct.pack(f"<{len(elements)}I", *elements))
    index.apply([told(ADD, 2, KEYS[:1])])
    index.remove_lane(1)
    while client.scard("{kvatlas:fleet}:dead"):
        index.tend()
    assert 2 in held(index, KEYS[:1])[0]


@pytest.mark.parametrize("last", ["-5", "16777215", "0x", "1e300", "99999999999999999999"])
def test_a_foreign_count_of_lanes_is_one_clear_error(redis_server: RedisServer, last: str) -> None:
    index = open_index(redis_server.url)
    index.begin()
    redis_server.client().hset("{kvatlas:fleet}:meta", "lanes", last)
    with pytest.raises(RemoteIndexError):
        index.apply([told(ADD, 1, KEYS)])


def test_a_full_server_takes_removals_and_tears_nothing(start_server: ServerFactory) -> None:
    server = start_server()
    index = open_index(server.url)
    index.apply([told(ADD, 1, KEYS)])
    client: Any = server.client()
    client.config_set("maxmemory", "1mb")
    with pytest.raises(ServerError, match="OOM") as caught:
        index.apply([told(ADD, 2, KEYS)])
    assert caught.value.reason == "full"
    assert blocks_of(index, KEYS, 1) == 300
    client.config_set("maxmemory", "0")
    index.apply([told(ADD, 2, KEYS)])
    assert blocks_of(index, KEYS, 2) == 300


def test_a_server_that_evicts_behind_our_back_leaves_no_phantom(redis_server: RedisServer) -> None:
    index = open_index(redis_server.url)
    index.apply([told(ADD, 1, KEYS)])
    client, segment = _segment(redis_server)
    client.delete(segment)
    assert [bool(row) for row in held(index, KEYS)] == [False] * 128 + [True] * 172
    index.apply([cleared(2)])
    index.apply([told(ADD, 3, chain(2, 4))])
    index.remove_lane(3)
    for _ in range(10):
        index.tend()
    assert index.statistics()[0]["server_vanished_segments"] == 1
