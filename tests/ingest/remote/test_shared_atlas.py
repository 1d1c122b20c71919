"""Several atlases write into one server, and any process reads all of it."""

from __future__ import annotations

import pytest

from kvatlas import Atlas, Chooser, ConfigError
from kvatlas.index.remote.fleet.opening import open_index
from tests.ingest.plain_batches import batch, stored
from tests.ingest.remote.shared_atlas import (
    FIRST,
    MODEL,
    SECOND,
    TOKENS,
    cleared,
    closing,
    held_by_index,
    held_by_mirrors,
    new_atlas,
    new_reader,
    removed,
    settle,
    status_of,
    told_first,
)
from tests.servers.redis_server import RedisServer, wait_until


def test_a_reader_sees_what_two_atlases_write(any_server: RedisServer) -> None:
    one, two = new_atlas(any_server), new_atlas(any_server)
    reader = new_reader(any_server)
    with closing(one, two, reader):
        one.ingest(b"kv@a@m", 0, FIRST)
        two.ingest(b"kv@b@m", 0, FIRST)
        two.ingest(b"kv@b@m", 1, SECOND)
        settle(one, two, reader=reader)
        for atlas in (one, two, reader):
            scores = atlas.score(TOKENS, model=MODEL)
            assert dict(scores) == {"a": 2.0, "b": 3.0}  # the last block of a whole prompt is computed again
            assert scores.is_whole
        assert held_by_index(reader) == held_by_mirrors(one, two)
        assert dict(reader.score(TOKENS, model=MODEL, pods=["a"])) == {"a": 2.0}


def test_answers_are_those_of_an_atlas_with_tables(redis_server: RedisServer) -> None:
    remote, tables = new_atlas(redis_server), Atlas()
    with closing(remote, tables):
        for atlas in (remote, tables):
            atlas.ingest(b"kv@a@m", 0, FIRST)
            atlas.ingest(b"kv@a@m", 1, SECOND)
            atlas.ingest(b"kv@b@m", 0, batch(stored([7], TOKENS[:16])))
        settle(remote)
        for strategy in ("reusable", "longest_prefix"):
            for n in (0, 15, 16, 40, 64):
                told = remote.score(TOKENS[:n], model=MODEL, strategy=strategy)
                expected = tables.score(TOKENS[:n], model=MODEL, strategy=strategy)
                assert dict(told) == dict(expected)
                assert [m._replace(truth="") for m in sorted(told.matches)] == [
                    m._replace(truth="") for m in sorted(expected.matches)
                ]
        batches = remote.score_many([TOKENS, TOKENS[:16]], model=MODEL)
        assert [dict(one) for one in batches] == [
            dict(one) for one in tables.score_many([TOKENS, TOKENS[:16]], model=MODEL)
        ]


def test_explanations_and_lookups_name_workers(redis_server: RedisServer) -> None:
    with told_first(redis_server) as (_atlas, reader):
        assert "a" in str(reader.explain(TOKENS, model=MODEL))
        keys = reader.look(TOKENS, model=MODEL).question.keys
        assert reader.lookup(keys[:3]) == [{("a", 0, 0): 1}, {("a", 0, 0): 1}, {}]
        assert [view.pod for view in reader.pods()] == ["a"]


def test_a_chooser_chooses_by_a_reader(redis_server: RedisServer) -> None:
    atlas = new_atlas(redis_server)
    reader = new_reader(redis_server)
    with closing(atlas, reader):
        atlas.ingest(b"kv@a@m", 0, FIRST)
        atlas.ingest(b"kv@b@m", 0, batch(cleared()))
        settle(atlas, reader=reader)
        for looker in (atlas, reader):
            chooser = Chooser(looker)
            choice = chooser.choose(TOKENS[:33], model=MODEL)
            assert choice.pod == "a"
            chooser.completed(choice.request_id)


def test_what_is_removed_and_cleared_goes(redis_server: RedisServer) -> None:
    atlas = new_atlas(redis_server)
    reader = new_reader(redis_server)
    with closing(atlas, reader):
        atlas.ingest(b"kv@a@m", 0, FIRST)
        atlas.ingest(b"kv@a@m", 1, SECOND)
        atlas.ingest(b"kv@a@m", 2, batch(removed([4])))
        settle(atlas, reader=reader)
        assert dict(reader.score(TOKENS, model=MODEL)) == {"a": 3.0}
        atlas.ingest(b"kv@a@m", 3, batch(cleared()))
        settle(atlas, reader=reader)
        assert dict(reader.score(TOKENS, model=MODEL)) == {}
        atlas.ingest(b"kv@a@m", 4, FIRST)
        atlas.remove_pod("a")
        settle(atlas, reader=reader)
        assert held_by_index(reader) == {}
        assert reader.pods() == ()


def test_an_atlas_that_closes_takes_its_blocks_along(redis_server: RedisServer) -> None:
    one, two = new_atlas(redis_server), new_atlas(redis_server)
    reader = new_reader(redis_server)
    with closing(two, reader):
        with closing(one):
            for name, atlas in (("a", one), ("b", two)):
                atlas.ingest(b"kv@%s@m" % name.encode(), 0, FIRST)
            settle(one, two, reader=reader)
            assert set(reader.score(TOKENS, model=MODEL)) == {"a", "b"}
        reader.refresh()
        assert set(reader.score(TOKENS, model=MODEL)) == {"b"}
        assert reader.status().is_whole


def test_the_seed_is_in_the_server_where_nobody_gives_one(redis_server: RedisServer) -> None:
    one = new_atlas(redis_server, hash_seed=None)
    two = new_atlas(redis_server, hash_seed=None)
    reader = new_reader(redis_server, hash_seed=None)
    with closing(one, two, reader):
        one.ingest(b"kv@a@m", 0, FIRST)
        settle(one, two, reader=reader)
        assert set(two.score(TOKENS, model=MODEL)) == set(reader.score(TOKENS, model=MODEL)) == {"a"}


def test_another_seed_is_refused(redis_server: RedisServer) -> None:
    atlas = new_atlas(redis_server, hash_seed="s")
    with closing(atlas):
        settle(atlas)
        with pytest.raises(ConfigError, match="hash_seed"):
            new_reader(redis_server, hash_seed="other")
        with pytest.raises(ConfigError, match="hash_seed"):
            new_atlas(redis_server, hash_seed=None)


def test_an_atlas_with_another_seed_says_so_and_writes_nothing(redis_server: RedisServer) -> None:
    atlas = new_atlas(redis_server, hash_seed="s")
    with closing(atlas):
        settle(atlas)
        other = new_atlas(redis_server, hash_seed="other")
        with closing(other):
            wait_until(lambda: "hash_seed" in status_of(other).writer.says)
            assert status_of(other).writer.phase == "apart"


def test_bad_settings_of_a_reader_are_named() -> None:
    with pytest.raises(ConfigError, match="timeout"):
        open_index("redis://127.0.0.1:1", timeout="x")
    with pytest.raises(ConfigError, match="format"):
        open_index("redis://127.0.0.1:1", format="llmd")
