"""What others, or nobody, should have put on the server: counted, passed over, never taken for a copy."""

from __future__ import annotations

import numpy as np
import pytest

from kvatlas.index.errors import DumpError, InputError, RemoteIndexError
from kvatlas.index.remote.connection.failures import ServerError
from kvatlas.index.remote.llmd.answers import excerpt_of, read_held
from kvatlas.index.remote.llmd.fields import FieldReader
from kvatlas.index.remote.llmd.lane_names import LaneNames
from tests.index.backends.telling import add, runs, tell
from tests.index.remote.llmd.conftest import Opens, named
from tests.index.remote.llmd.peer import Entry, LlmdPeer
from tests.models.table import ADD, Record
from tests.servers.redis_server import RedisServer

KEYS = np.array([11, 12, 13, 14, 15], np.uint64)


def test_keys_of_other_types_are_nobody_s_and_stay(opens: Opens, redis_server: RedisServer) -> None:
    index = opens()
    add(index, 0, KEYS[:1])
    with redis_server.client() as client:
        client.set("12", "foreign")
        client.zadd("13", {"x": 1})
        client.rpush("14", "x")
        add(index, 0, KEYS)
        found = index.match(KEYS)
        assert runs(found) == {0: 1}
        assert not found.is_whole
        assert index.lookup(KEYS) == [[(0, 1)], [], [], [], [(0, 1)]]
        index.remove_lane(0)
        assert sorted(client.keys()) == [b"12", b"13", b"14"]
        assert client.get("12") == b"foreign"
    assert index.statistics()[0]["wrong_type_keys"] >= 6


def test_fields_that_are_no_entries_are_counted_once_and_stay(
    opens: Opens, redis_server: RedisServer
) -> None:
    index = opens()
    with redis_server.client() as client:
        for field in (b"", b"pod-1@gpu", b"{", b"\xff\x00", b'{"PodIdentifier":7}'):
            client.hset("11", field, "v")
        add(index, 1, KEYS[:2])
        for _ in range(3):
            assert runs(index.match(KEYS)) == {1: 2}
        index.remove_lane(1)
        assert client.hlen("11") == 5
    assert index.statistics()[0]["unreadable_fields"] == 5


def test_a_hash_of_a_hundred_thousand_fields_is_not_told(opens: Opens, redis_server: RedisServer) -> None:
    """Nor does it hide the blocks before and behind it."""
    index = opens()
    add(index, 0, KEYS)
    fill = "for i = 1, 20000 do redis.call('HSET', '12', ARGV[1] .. ':' .. i, '') end"
    with redis_server.client() as client:
        for part in range(5):
            client.eval(fill, 0, part)
    found = index.match(KEYS)
    assert runs(found) == {0: 1}
    assert not found.is_whole
    assert index.lookup(KEYS) == [[(0, 1)], [], [(0, 1)], [(0, 1)], [(0, 1)]]
    index.remove_lane(0)
    assert redis_server.command("HLEN", "12") == 100_001
    assert redis_server.command("DBSIZE") == 1
    assert index.statistics()[0]["oversized_keys"] >= 3


def test_fields_of_too_many_bytes_are_not_told(opens: Opens, redis_server: RedisServer) -> None:
    index = opens()
    add(index, 0, KEYS)
    with redis_server.client() as client:
        client.hset("12", "x" * 100_000, "")
    assert runs(index.match(KEYS)) == {0: 1}
    assert index.statistics()[0]["oversized_keys"] == 1


def test_more_pods_than_there_is_room_for_are_counted(opens: Opens, peer: LlmdPeer) -> None:
    index = opens(LaneNames(discovers=True, discovered_max=3))
    peer.add(None, KEYS.tolist(), [Entry(f"stranger-{number}") for number in range(10)])
    assert len(runs(index.match(KEYS))) == 3
    assert index.statistics()[0]["discovered_pods"] == 3
    assert index.statistics()[0]["refused_pods"] == 7


def test_keys_that_are_no_block_keys_are_passed_over_by_a_sweep(
    opens: Opens, redis_server: RedisServer
) -> None:
    index = opens()
    add(index, 0, KEYS)
    field = '{"PodIdentifier":"pod-0","DeviceTier":"gpu"}'
    others = ["007", "99999999999999999999", "18446744073709551616", "1x", "engine:5", "x"]
    with redis_server.client() as client:
        for name in others:
            client.hset(name, field, "")
        client.hset("0", field, "")
        index.remove_lane(0)
        assert sorted(key.decode() for key in client.scan_iter()) == sorted(others)


def test_remembered_fields_are_bounded_and_read_again() -> None:
    reader = FieldReader(named(), remembered_max=4)
    fields = [b'{"PodIdentifier":"pod-%d"}' % number for number in range(8)]
    for _ in range(2):
        assert reader.holders(fields) == tuple((lane, 16) for lane in range(8))
    assert reader.statistics()["forgettings"] >= 2


def test_a_lane_that_is_named_later_is_read_from_then_on(opens: Opens, peer: LlmdPeer) -> None:
    names = LaneNames()
    index = opens(names)
    peer.add(None, KEYS.tolist(), [Entry("late")])
    assert index.lookup(KEYS[:1]) == [[]]
    names.put(5, "late")
    assert index.lookup(KEYS[:1]) == [[(5, 1)]]


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        [0, 0, [1, 5], []],
        [0, 0, [0, 4], []],
        [0, 0, [0, 5, 1], []],
        [0, 0, [-1, 5], [[b"x"]]],
        [0, 0, [1, 5], [["text"]]],
        [0, 0, [0, 6, 0, -1], []],
        [0, 0, [b"0", 5], []],
        "OK",
    ],
)
def test_an_answer_that_the_script_would_not_give_is_one_clear_error(answer: object) -> None:
    with pytest.raises(RemoteIndexError, match="expected who holds 5 keys"):
        read_held([answer], [5])


def test_neighbours_whose_fields_say_the_same_are_one_run() -> None:
    reader = FieldReader(named())
    one, other = (
        b'{"PodIdentifier":"pod-1","DeviceTier":"gpu"}',
        b'{"DeviceTier":"gpu","PodIdentifier":"pod-1"}',
    )
    held = read_held([[0, 0, [1, 2, 2, 2, 0, 1], [[one], [other]]]], [5])
    excerpt = excerpt_of(held, 5, reader)
    assert excerpt == excerpt_of(read_held([[0, 0, [1, 4, 0, 1], [[one]]]], [5]), 5, reader)


def test_malformed_deltas_and_contents_are_refused(opens: Opens, redis_server: RedisServer) -> None:
    index = opens()
    good = Record(ADD, 0, 1, (5, 6)).packed()
    for delta in (good[:-1], good + b"x", b"\x09" + good[1:]):
        with pytest.raises(InputError):
            index.apply([delta])
        with pytest.raises(InputError):
            index.replace([0], delta)
    with pytest.raises(InputError, match="lane 0"):
        index.replace([1], good)
    with pytest.raises(DumpError):
        index.load([b"kvac but not really"])
    assert redis_server.command("DBSIZE") == 0


def test_a_full_server_is_said_and_what_is_removed_makes_room(
    opens: Opens, redis_server: RedisServer
) -> None:
    index = opens()
    add(index, 0, KEYS)
    redis_server.command("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(ServerError) as caught:
        add(index, 1, KEYS)
    assert caught.value.reason == "full"
    assert index.lookup(KEYS) == [[(0, 1)]] * 5
    redis_server.command("CONFIG", "SET", "maxmemory", "0")
    add(index, 1, KEYS)
    assert runs(index.match(KEYS)) == {0: 5, 1: 5}


@pytest.mark.slow
def test_a_server_that_was_flushed_or_began_anew_is_empty_until_the_content_comes_again(
    opens: Opens, redis_server: RedisServer
) -> None:
    """llm-d's format has nothing to notice it by: whoever writes it must."""
    index = opens()
    add(index, 0, KEYS)
    redis_server.restart()
    with redis_server.client() as client:
        assert client.dbsize() == 0
    tell(index, Record(ADD, 1, 1, (11,)))
    assert runs(index.match(KEYS)) == {1: 1}
    index.replace([0], Record(ADD, 0, 1, tuple(KEYS.tolist())).packed())
    assert runs(index.match(KEYS)) == {0: 5, 1: 1}


def test_a_server_that_is_gone_is_one_clear_error(opens: Opens, redis_server: RedisServer) -> None:
    index = opens()
    add(index, 0, KEYS)
    redis_server.kill()
    for ask in (lambda: index.match(KEYS), lambda: index.lookup(KEYS), lambda: add(index, 0, KEYS)):
        with pytest.raises(RemoteIndexError):
            ask()
    assert index.statistics()[0]["sweeps"] == 0
