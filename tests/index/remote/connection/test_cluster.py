"""A connection to a real cluster whose slots and nodes move."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from kvatlas.index.remote.connection.commands import slot_of
from kvatlas.index.remote.connection.failures import ErrorReply, ServerError
from kvatlas.index.remote.connection.routes.cluster_layout import ClusterLayout, redirection
from kvatlas.index.remote.connection.url import Address
from tests.index.remote.connection.asking import command, connect
from tests.servers.redis_cluster import RedisCluster
from tests.servers.redis_server import RedisServer, wait_until

KEYS = [b"key %d" % number for number in range(200)]


def test_each_command_goes_to_its_node_in_one_round_trip_each(any_cluster: RedisCluster) -> None:
    with connect(any_cluster) as connection:
        connection.run([command("SET", key, key) for key in KEYS])
        before = connection.status().counts
        assert connection.run([command("GET", key) for key in KEYS]) == KEYS
        after = connection.status().counts
        assert after.round_trips - before.round_trips == len(any_cluster.nodes)
        assert after.moved == 0 and after.refreshes == 1
        assert {key for page in connection.scan("key*", count=50) for key in page} == set(KEYS)
        assert len(connection.nodes()) == 3


def test_a_script_is_loaded_on_each_node(any_cluster: RedisCluster) -> None:
    with connect(any_cluster) as connection:
        script = connection.script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
        calls = [script.command([b"{%d}:n" % number], [number]) for number in range(50)]
        assert connection.run(calls) == list(range(50))
        assert connection.run(calls) == [2 * number for number in range(50)]
        assert connection.status().counts.script_loads == 3


def test_keys_of_two_slots_in_one_command_are_an_error_of_it(redis_cluster: RedisCluster) -> None:
    with connect(redis_cluster) as connection:
        answers = connection.run([command("MSET", b"a", 1, b"b", 2), command("SET", b"a", 1)])
        assert isinstance(answers[0], ErrorReply) and answers[0].code == "CROSSSLOT"
        assert answers[1] == b"OK"


def other_than(cluster: RedisCluster, node: RedisServer) -> RedisServer:
    return next(one for one in cluster.nodes if one is not node)


def test_slot_that_has_moved_is_followed_and_remembered(any_cluster: RedisCluster) -> None:
    key = KEYS[0]
    source = any_cluster.node_of(key)
    target = other_than(any_cluster, source)
    with connect(any_cluster) as connection:
        connection.run([command("SET", key, 1)])
        any_cluster.begin_move(slot_of(key), source, target)
        any_cluster.move_keys(slot_of(key), source, target)
        any_cluster.end_move(slot_of(key), target)
        assert connection.run([command("GET", key)]) == [b"1"]
        assert connection.run([command("GET", key)]) == [b"1"]
        assert connection.status().counts.moved == 1
        any_cluster.begin_move(slot_of(key), target, source)  # back, for those who come after
        any_cluster.move_keys(slot_of(key), target, source)
        any_cluster.end_move(slot_of(key), source)


def test_slot_that_is_moving_is_asked_for_at_both_ends(any_cluster: RedisCluster) -> None:
    here, there = b"{slot}:here", b"{slot}:there"
    slot = slot_of(here)
    source = any_cluster.node_of(here)
    target = other_than(any_cluster, source)
    with connect(any_cluster) as connection:
        script = connection.script("return redis.call('GET', KEYS[1])")
        connection.run([command("SET", there, 2)])
        any_cluster.begin_move(slot, source, target)
        any_cluster.move_keys(slot, source, target)
        # What is not there any more, or not yet, is the target's; a script must be loaded there, too.
        assert connection.run([command("GET", there), script.command([there])]) == [b"2", b"2"]
        assert connection.run([command("SET", here, 1), command("GET", here)]) == [b"OK", b"1"]
        assert connection.status().counts.asked >= 4
        any_cluster.end_move(slot, target)
        assert connection.run([command("GET", here), command("GET", there)]) == [b"1", b"2"]
        any_cluster.begin_move(slot, target, source)
        any_cluster.move_keys(slot, target, source)
        any_cluster.end_move(slot, source)


def test_command_over_keys_at_both_ends_is_tried_again_until_they_have_moved(
    redis_cluster: RedisCluster,
) -> None:
    one, two = b"{slot}:one", b"{slot}:two"
    slot = slot_of(one)
    source = redis_cluster.node_of(one)
    target = other_than(redis_cluster, source)
    with connect(redis_cluster, backoff_ms_max=1) as connection:
        connection.run([command("MSET", one, 1, two, 2)])
        redis_cluster.begin_move(slot, source, target)
        assert redis_cluster.move_keys(slot, source, target, count=1) == 1
        with pytest.raises(ServerError, match="TRYAGAIN") as caught:  # nobody moves the rest
            connection.run([command("MGET", one, two)])
        assert caught.value.reason == "cluster"
        redis_cluster.move_keys(slot, source, target)
        assert connection.run([command("MGET", one, two)]) == [[b"1", b"2"]]
        redis_cluster.end_move(slot, target)
        assert connection.run([command("MGET", one, two)]) == [[b"1", b"2"]]
        redis_cluster.begin_move(slot, target, source)
        redis_cluster.move_keys(slot, target, source)
        redis_cluster.end_move(slot, source)


@pytest.mark.slow
def test_nothing_is_lost_or_done_twice_while_slots_move_under_writers(any_cluster: RedisCluster) -> None:
    keys = [b"{%d}:n" % number for number in range(12)]
    is_over = Event()

    def count_up(key: bytes) -> int:
        with connect(any_cluster, backoff_ms_max=1) as connection:
            done = 0
            while not is_over.is_set():
                assert connection.run([command("INCR", key)]) == [done + 1]
                done += 1
            return done

    with ThreadPoolExecutor(len(keys)) as threads:
        running = [threads.submit(count_up, key) for key in keys]
        for key in (*keys, *keys):
            source = any_cluster.node_of(key)
            target = other_than(any_cluster, source)
            any_cluster.begin_move(slot_of(key), source, target)
            any_cluster.move_keys(slot_of(key), source, target)
            any_cluster.end_move(slot_of(key), target)
        is_over.set()
        done = [one.result(60) for one in running]
    with connect(any_cluster) as connection:
        assert connection.run([command("GET", key) for key in keys]) == [b"%d" % count for count in done]


@pytest.mark.slow
def test_replica_that_takes_over_is_followed(redis_cluster: RedisCluster) -> None:
    key = KEYS[0]
    master = redis_cluster.node_of(key)
    replica = redis_cluster.add_replica(master)
    with connect(redis_cluster, backoff_ms_max=1) as connection:
        connection.run([command("SET", key, 1)])
        wait_until(lambda: replica.command("DBSIZE") == 1, what="the replica has the key")
        master.kill()
        with pytest.raises(ServerError) as caught:
            connection.run([command("GET", key)])
        assert caught.value.reason == "down" and not connection.status().is_up

        def found() -> bool:
            try:
                return connection.run([command("GET", key)], is_repeatable=True) == [b"1"]
            except ServerError:
                return False

        replica.command("CLUSTER", "FAILOVER", "TAKEOVER")
        wait_until(found, what="the key is found with the replica")
        assert connection.status().is_up
        assert f"127.0.0.1:{replica.port}" in connection.nodes()


@pytest.mark.slow
def test_node_that_is_down_takes_only_its_own_keys_with_it(redis_cluster: RedisCluster) -> None:
    gone = redis_cluster.nodes[2]
    for node in redis_cluster.nodes:
        node.command("CONFIG", "SET", "cluster-require-full-coverage", "no")
    theirs = [key for key in KEYS if redis_cluster.node_of(key) is not gone][:20]
    with connect(redis_cluster) as connection:
        connection.run([command("SET", key, key) for key in KEYS])
        gone.kill()
        with pytest.raises(ServerError) as caught:
            connection.run([command("GET", key) for key in KEYS])
        assert caught.value.reason == "down" and str(gone.port) in str(caught.value)
        assert connection.run([command("GET", key) for key in theirs]) == theirs
        # No link is left with half of an answer.
        assert connection.run([command("GET", key) for key in reversed(theirs)]) == theirs[::-1]


@pytest.mark.slow
def test_first_node_of_the_url_may_be_down(redis_cluster: RedisCluster) -> None:
    first, second, third = (node.port for node in redis_cluster.nodes)
    redis_cluster.nodes[0].kill()
    url = f"redis://127.0.0.1:{first},127.0.0.1:{second},127.0.0.1:{third}?cluster=true"
    with connect(url) as connection:
        assert f"127.0.0.1:{third}" in connection.nodes()


@pytest.mark.slow
def test_cluster_and_single_server_that_are_mixed_up_say_so(
    redis_server: RedisServer, redis_cluster: RedisCluster
) -> None:
    with connect(f"{redis_server.url}?cluster=true") as connection:
        with pytest.raises(ServerError, match="expected a node of a cluster") as caught:
            connection.run([command("GET", b"a")])
        assert caught.value.reason == "cluster"
    with connect(redis_cluster.nodes[0].url) as connection:
        with pytest.raises(ServerError, match="cluster=true") as caught:
            connection.run([command("GET", key) for key in KEYS])
        assert caught.value.reason == "cluster"


@pytest.mark.slow
def test_slot_that_nobody_serves_is_an_error(redis_cluster: RedisCluster) -> None:
    key = KEYS[0]
    for node in redis_cluster.nodes:
        node.command("CLUSTER", "DELSLOTS", slot_of(key)) if node is redis_cluster.node_of(key) else None
    with connect(redis_cluster) as connection:
        with pytest.raises(ServerError) as caught:
            connection.run([command("GET", key)])
        assert caught.value.reason == "cluster"


ASKED = Address("10.0.0.1", 7000)


def test_layout_is_read_from_the_answer() -> None:
    replica = [b"10.0.0.3", 7003, b"id"]
    answer = [[0, 99, [b"10.0.0.2", 7002, b"id"], replica], [100, 16383, [b"", 7001, b"id", []]]]
    layout = ClusterLayout.of(answer, ASKED)
    assert layout.address(99) == Address("10.0.0.2", 7002)
    assert layout.address(100) == Address("10.0.0.1", 7001)
    assert layout.masters() == [Address("10.0.0.2", 7002), Address("10.0.0.1", 7001)]
    layout.move(5, ASKED)
    assert layout.address(5) == ASKED


@pytest.mark.parametrize(
    "answer",
    [
        None,
        5,
        b"",
        [1],
        [[0, 1]],
        [[0, 1, [b"a"]]],
        [[0, 16384, [b"a", 1]]],
        [[5, 1, [b"a", 1]]],
        [[b"x", 1, [b"a", 1]]],
    ],
)
def test_what_is_no_layout_is_an_error(answer: object) -> None:
    if answer == b"":
        assert ClusterLayout.of(answer, ASKED).masters() == []
        return
    with pytest.raises(ServerError) as caught:
        ClusterLayout.of(answer, ASKED)
    assert caught.value.reason == "garbled"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("MOVED 3999 127.0.0.1:6381", (3999, Address("127.0.0.1", 6381))),
        ("ASK 0 :6381", (0, Address("10.0.0.1", 6381))),
        ("MOVED 1 ?:6381", (1, Address("10.0.0.1", 6381))),
        ("MOVED 1 2001:db8::1:6381", (1, Address("2001:db8::1", 6381))),
        ("MOVED 16384 a:1", None),
        ("MOVED a:1", None),
        ("MOVED 1 a", None),
        ("MOVED -1 a:1", None),
    ],
)
def test_redirection_names_a_slot_and_a_node(words: str, expected: object) -> None:
    assert redirection(words, ASKED) == expected
