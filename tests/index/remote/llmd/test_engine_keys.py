"""What engine keys mean, told by mirrors and written as llm-d keeps it."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from kvatlas.index.errors import InputError
from kvatlas.index.keys import keyspace
from kvatlas.index.remote.connection.connection import RemoteConnection
from kvatlas.index.remote.llmd.engine_keys import EngineKey, EngineKeyWriter, engine_keys_of
from kvatlas.ingest._native import Decoder, DeltaLog, Mirror
from tests.index.remote.llmd.conftest import Opens
from tests.index.remote.llmd.peer import Entry, LlmdPeer
from tests.models.table import ADD, Record
from tests.servers.redis_cluster import RedisCluster
from tests.servers.redis_server import RedisServer

SPACE = keyspace("test-model", 4, "fnv64a_cbor", "")


class Engine:
    """A mirror of lane 0 and what it tells."""

    def __init__(self, ghosts_max: int = 8192, block_size: int = 4, bytes_max: int = 1 << 20) -> None:
        self.mirror = Mirror(SPACE, ghosts_max=ghosts_max)
        self.mirror.set_lane(0, 0)
        self.log = DeltaLog(bytes_max)
        self.mirror.set_engine_keys(self.log)
        self._block_size = block_size

    def tell(self, *events: list[object]) -> None:
        batch = Decoder()
        batch.decode(msgspec.msgpack.encode([0.0, list(events)]))
        self.mirror.gather(batch)

    def store(self, hashes: list[int], tokens: list[int], parent: int | None = None) -> None:
        self.tell(["BlockStored", hashes, parent, tokens, self._block_size, None, "GPU", None])

    def remove(self, hashes: list[int]) -> None:
        self.tell(["BlockRemoved", hashes, "GPU"])

    def records(self) -> bytes:
        return b"".join(iter(self.log.take, b""))

    def told(self) -> list[EngineKey]:
        return list(engine_keys_of(self.records()))


def keys_of(tokens: list[int]) -> list[int]:
    return [int(key) for key in SPACE.keys(tokens)]


def known(engine_key: int, *keys: int, is_gone: bool = False) -> EngineKey:
    return EngineKey(engine_key, [b"%d" % key for key in keys], is_gone)


def test_each_new_block_is_told_once_with_its_key() -> None:
    engine = Engine()
    tokens = list(range(12))
    engine.store([101, 102], tokens[:8])
    engine.store([103], tokens[8:], parent=102)
    engine.store([101], tokens[:4])
    a, b, c = keys_of(tokens)
    assert engine.told() == [known(101, a), known(102, b), known(103, c)]


def test_a_block_is_told_as_gone_when_its_meaning_is_forgotten() -> None:
    engine = Engine(ghosts_max=1)
    tokens = list(range(8))
    engine.store([101, 102], tokens)
    engine.told()
    engine.remove([102, 101])
    assert engine.told() == [known(102, keys_of(tokens)[1], is_gone=True)]
    engine.mirror.restart(SPACE)
    assert engine.told() == [known(101, keys_of(tokens)[0], is_gone=True)]


def test_larger_engine_blocks_have_several_keys_and_of_smaller_ones_the_last_has_one() -> None:
    tokens = list(range(16))
    large = Engine(block_size=8)
    large.store([7, 8], tokens)
    a, b, c, d = keys_of(tokens)
    assert large.told() == [known(7, a, b), known(8, c, d)]
    small = Engine(block_size=2)
    small.store([1, 2, 3, 4], tokens[:8])
    assert small.told() == [known(2, a), known(4, b)]


def test_what_was_known_before_is_told_at_once_and_again_when_asked() -> None:
    engine = Engine()
    tokens = list(range(8))
    engine.mirror.set_engine_keys(None)
    engine.store([101, 102], tokens)
    assert engine.told() == []
    engine.mirror.set_engine_keys(engine.log)
    a, b = keys_of(tokens)
    assert engine.told() == [known(101, a), known(102, b)]
    engine.mirror.tell_engine_keys()
    assert engine.told() == [known(101, a), known(102, b)]


def test_a_log_that_is_full_drops_all_and_says_so() -> None:
    engine = Engine(bytes_max=64)
    engine.store([1, 2, 3], list(range(12)))
    assert engine.log.lost == 1


def test_records_that_are_cut_short_are_refused() -> None:
    engine = Engine()
    engine.store([101], list(range(4)))
    records = engine.records()
    assert len(records) == 24
    for end in (1, 15, 23):
        with pytest.raises(InputError, match="engine keys at byte"):
            list(engine_keys_of(records[:end]))


def test_llm_d_resolves_and_evicts_by_what_we_have_written(
    opens: Opens, connection: RemoteConnection, peer: LlmdPeer, redis_server: RedisServer
) -> None:
    index, engine, writer = opens(), Engine(block_size=8), EngineKeyWriter(connection)
    tokens = list(range(16))
    engine.store([2**64 - 1, 8], tokens)
    index.apply(engine.mirror.take())
    writer.write(engine.records())
    keys = keys_of(tokens)
    with redis_server.client() as client:
        members = client.zrange(f"engine:{2**64 - 1}", 0, -1, withscores=True)
    assert [(int(key), score) for key, score in members] == [(keys[0], 0.0), (keys[1], 1.0)]
    assert peer.request_key(8) == keys[3]
    peer.evict(8, [Entry("pod-0")])
    assert list(peer.lookup(keys)) == keys[:2]
    assert redis_server.command("EXISTS", "engine:8") == 0


@pytest.mark.parametrize("home", ["server", "cluster"])
def test_an_engine_key_goes_with_the_last_holder_of_its_blocks(
    request: pytest.FixtureRequest, opens: Opens, home: str
) -> None:
    in_cluster = home == "cluster"
    connection: RemoteConnection = request.getfixturevalue(
        "cluster_connection" if in_cluster else "connection"
    )
    index, engine, writer = opens(connection=connection), Engine(ghosts_max=1), EngineKeyWriter(connection)
    tokens = list(range(8))
    engine.store([101, 102], tokens)
    index.apply(engine.mirror.take())
    writer.write(engine.records())
    first, second = (np.array([key], np.uint64) for key in keys_of(tokens))
    index.apply([held_by_lane_1(second)])
    engine.remove([102, 101])
    engine.mirror.restart(SPACE)
    index.apply(engine.mirror.take())
    writer.write(engine.records())
    names = {key for page in connection.scan("engine:*") for key in page}
    assert names == {b"engine:102"}
    assert index.lookup(np.concatenate([first, second])) == [[], [(1, 1)]]


def held_by_lane_1(keys: npt.NDArray[np.uint64]) -> bytes:
    return Record(ADD, 1, 1, tuple(keys.tolist())).packed()


def test_a_key_of_another_type_is_counted_and_stays(
    connection: RemoteConnection, redis_server: RedisServer
) -> None:
    engine, writer = Engine(), EngineKeyWriter(connection)
    redis_server.command("SET", "engine:101", "foreign")
    engine.store([101, 102], list(range(8)))
    writer.write(engine.records())
    assert writer.wrong_type == 1
    assert redis_server.command("GET", "engine:101") == b"foreign"
    assert redis_server.command("ZCARD", "engine:102") == 1


def test_a_cluster_spreads_blocks_over_its_nodes_and_answers_as_one(
    opens: Opens, cluster_connection: RemoteConnection, redis_cluster: RedisCluster
) -> None:
    index = opens(connection=cluster_connection)
    keys = SPACE.keys(list(range(4 * 300)))
    index.apply([held_by_lane_1(keys)])
    assert all(node.command("DBSIZE") > 20 for node in redis_cluster.nodes)
    found = index.match(keys)
    assert (found.workers.tolist(), found.blocks.tolist()) == ([1], [300])
    index.load(list(index.export()))
    assert index.lookup(keys) == [[(1, 1)]] * 300
    index.remove_lane(1)
    assert sum(node.command("DBSIZE") for node in redis_cluster.nodes) == 0
