"""An atlas whose index is in llm-d's format: what it writes, llm-d reads; what llm-d writes, it reads."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kvatlas import Atlas, AtlasConfig, Chooser, ConfigError, ModelConfig, block_keys
from kvatlas.index.remote.connection.connection import RemoteConnection
from kvatlas.index.remote.llmd.lane_names import LaneNames
from kvatlas.index.remote.llmd.llmd_index import LlmdIndex
from kvatlas.ingest.atlas_llmd import LlmdHome
from kvatlas.ingest.fleet_mirror import FleetMirror
from kvatlas.ingest.index_config import IndexConfig
from kvatlas.ingest.llmd_writer import LlmdWriter
from kvatlas.ingest.numbering import CountedNumbers
from kvatlas.ingest.outlet import GatheringOutlet
from tests.index.remote.llmd.peer import Entry, LlmdPeer
from tests.ingest.plain_batches import batch, stored
from tests.ingest.remote.shared_atlas import (
    FIRST,
    MODEL,
    QUICK,
    TOKENS,
    Located,
    closing,
    remote_settings,
    removed,
)
from tests.servers.redis_server import RedisServer, wait_until


def new_llmd_atlas(server: Located, *, engine_keys: bool = False, **atlas: Any) -> Atlas:
    remote = remote_settings(server, format="llmd")
    index = IndexConfig(kind="remote", server=remote, sharing=QUICK, engine_keys=engine_keys)
    models = {MODEL: ModelConfig(block_size_tokens=16)}
    return Atlas(AtlasConfig(algorithm="fnv64a_cbor", hash_seed="", models=models, index=index, **atlas))


def quiet(atlas: Atlas) -> None:
    home = atlas._home
    assert isinstance(home, LlmdHome)
    wait_until(lambda: home.writer.is_quiet or home.writer.failure is not None, what="all is delivered")
    assert home.writer.failure is None


def fields_of(server: RedisServer, tokens: list[int]) -> list[list[dict[str, object]]]:
    """As llm-d reads: HKEYS of each request key."""
    keys = block_keys(tokens, model=MODEL, block_size=16, algorithm="fnv64a_cbor", hash_seed="")
    return [[json.loads(field) for field in server.client().hkeys(str(key))] for key in keys.tolist()]


def entry(pod: str, tier: str = "gpu") -> dict[str, object]:
    return {
        "PodIdentifier": pod,
        "DeviceTier": tier,
        "Speculative": False,
        "HasGroup": False,
        "GroupIdx": 0,
    }


def test_llm_d_reads_what_an_atlas_writes(any_server: RedisServer) -> None:
    atlas = new_llmd_atlas(any_server)
    with closing(atlas):
        atlas.ingest(b"kv@a@m", 0, FIRST)
        quiet(atlas)
        assert fields_of(any_server, TOKENS[:48]) == [[entry("a")], [entry("a")], []]
        atlas.ingest(b"kv@a@m", 1, batch(removed([2])))
        quiet(atlas)
        assert fields_of(any_server, TOKENS[:32]) == [[entry("a")], []]
    assert fields_of(any_server, TOKENS[:32]) == [[], []]


def test_an_atlas_reads_what_llm_d_writes(any_server: RedisServer) -> None:
    atlas = new_llmd_atlas(any_server)
    with closing(atlas):
        atlas.ingest(b"kv@a@m", 0, FIRST)
        quiet(atlas)
        keys = block_keys(TOKENS, model=MODEL, block_size=16, algorithm="fnv64a_cbor", hash_seed="")
        for key in keys.tolist():
            field = json.dumps(entry("theirs", "cpu"), separators=(",", ":"))
            any_server.client().hset(str(key), field, "")
        expected = {"a": 2.0, "theirs": 3.2}
        scores = [dict(atlas.score(TOKENS, model=MODEL, strategy="longest_prefix")) for _ in range(2)]
        assert scores[1] == pytest.approx(expected)
        assert set(atlas.serving_pods()) == {"a", "theirs"}
        assert Chooser(atlas).choose(TOKENS, model=MODEL).pod == "a"  # nobody vouches for the other
        states = {match.pod: match.truth for match in atlas.score(TOKENS, model=MODEL).matches}
        assert states["theirs"] == "BLIND"


@pytest.mark.slow
def test_a_flushed_server_gets_all_of_it_again(any_server: RedisServer) -> None:
    atlas = new_llmd_atlas(any_server)
    with closing(atlas):
        atlas.ingest(b"kv@a@m", 0, FIRST)
        quiet(atlas)
        any_server.flush()
        wait_until(lambda: fields_of(any_server, TOKENS[:32]) == [[entry("a")], [entry("a")]])


def test_a_server_that_is_flushed_while_all_is_loaded_gets_all_of_it(any_server: RedisServer) -> None:
    remote = remote_settings(any_server, format="llmd")
    config = AtlasConfig(
        algorithm="fnv64a_cbor", hash_seed="", models={MODEL: ModelConfig(block_size_tokens=16)}
    )
    mirror = FleetMirror(config, GatheringOutlet(bytes_max=1 << 20), CountedNumbers(), hash_seed="")
    with RemoteConnection(remote) as connection:
        writer = LlmdWriter(mirror, LlmdIndex(connection, remote, LaneNames()), connection, QUICK)
        mirror.ingest(b"kv@a@m", 0, FIRST)
        mirror.ingest(b"kv@b@m", 0, FIRST)
        writer.step()
        assert entry("a") in fields_of(any_server, TOKENS[:16])[0]
        assert not writer.is_quiet
        any_server.flush()
        for _ in range(8):
            writer.step()
        assert writer.is_quiet
        pods = sorted(str(told["PodIdentifier"]) for told in fields_of(any_server, TOKENS[:16])[0])
        assert pods == ["a", "b"]
        writer.stop()


def test_a_pod_that_comes_back_holds_what_it_says_then(any_server: RedisServer) -> None:
    atlas = new_llmd_atlas(any_server)
    with closing(atlas):
        for _ in range(3):  # each time under another lane
            atlas.ingest(b"kv@a@m", 0, FIRST)
            quiet(atlas)
            assert fields_of(any_server, TOKENS[:32]) == [[entry("a")], [entry("a")]]
            atlas.remove_pod("a")
            atlas.ingest(b"kv@a@m", 0, batch(stored([1], TOKENS[:16])))  # perhaps in one step with its end
            quiet(atlas)
            assert fields_of(any_server, TOKENS[:32]) == [[entry("a")], []]
            atlas.remove_pod("a")
            quiet(atlas)
            assert fields_of(any_server, TOKENS[:32]) == [[], []]


def test_an_atlas_that_closes_before_it_has_written_closes_all_the_same(any_server: RedisServer) -> None:
    atlas = new_llmd_atlas(any_server)
    atlas.ingest(b"kv@a@m", 0, FIRST)
    atlas.close()
    assert fields_of(any_server, TOKENS[:32]) == [[], []]


def test_another_algorithm_is_refused(any_server: RedisServer) -> None:
    server = remote_settings(any_server, format="llmd")
    with pytest.raises(ConfigError, match="fnv64a_cbor"):
        AtlasConfig(index=IndexConfig(kind="remote", server=server))


# Engine keys.


def engine_keys_of(server: RedisServer) -> dict[bytes, list[bytes]]:
    """Block keys by engine key, in the order of the chain."""
    keys = server.client().scan_iter("engine:*")
    return {key: server.command("ZRANGE", key, 0, -1) for key in keys}


@pytest.mark.slow
def test_engine_keys_are_written_as_llm_d_would(any_server: RedisServer) -> None:
    atlas = new_llmd_atlas(any_server, engine_keys=True)
    keys = block_keys(TOKENS, model=MODEL, block_size=16, algorithm="fnv64a_cbor", hash_seed="").tolist()
    with closing(atlas):
        atlas.ingest(b"kv@a@m", 0, batch(stored([1, 2**64 - 1], TOKENS[:32])))
        atlas.ingest(b"kv@b@m", 0, batch(stored([3], TOKENS[:48][32:], None)))
        atlas.ingest(b"kv@a@m", 1, batch(stored([4], TOKENS[32:48], 2**64 - 1)))
        quiet(atlas)
        written = engine_keys_of(any_server)
        peer = LlmdPeer(any_server.client())
        assert [peer.request_key(key) for key in (1, 2**64 - 1, 4)] == keys[:3]
        # As the peer writes them itself.
        any_server.flush()
        peer.add([1, 2**64 - 1, 4], keys[:3], [Entry("a")])
        theirs = engine_keys_of(any_server)
        for name in (b"engine:1", b"engine:%d" % (2**64 - 1), b"engine:4"):
            assert theirs[name] == written[name]
        wait_until(lambda: engine_keys_of(any_server).keys() == written.keys(), what="all is told again")


def test_an_engine_key_goes_when_its_meaning_is_forgotten(redis_server: RedisServer) -> None:
    atlas = new_llmd_atlas(redis_server, engine_keys=True, ghosts_max=1)
    with closing(atlas):
        atlas.ingest(b"kv@a@m", 0, FIRST)
        quiet(atlas)
        assert set(engine_keys_of(redis_server)) == {b"engine:1", b"engine:2"}
        atlas.ingest(b"kv@a@m", 1, batch(removed([2, 1])))
        quiet(atlas)
        assert set(engine_keys_of(redis_server)) == {b"engine:1"}


def test_nobody_is_told_engine_keys_unless_asked(redis_server: RedisServer) -> None:
    atlas = new_llmd_atlas(redis_server)
    with closing(atlas):
        atlas.ingest(b"kv@a@m", 0, FIRST)
        quiet(atlas)
        assert engine_keys_of(redis_server) == {}
    with pytest.raises(ConfigError, match="engine_keys"):
        IndexConfig(kind="remote", engine_keys=True)
