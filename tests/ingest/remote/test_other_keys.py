"""Writers that key otherwise than those who came first to a namespace: they are told, and readers say so."""

from __future__ import annotations

from typing import Any

import pytest

from kvatlas import Atlas, AtlasConfig, ModelConfig
from kvatlas.ingest.index_config import IndexConfig
from tests.ingest.plain_batches import batch, stored
from tests.ingest.remote.shared_atlas import (
    FIRST,
    MODEL,
    QUICK,
    TOKENS,
    closing,
    new_atlas,
    new_reader,
    remote_settings,
    settle,
    status_of,
)
from tests.servers.redis_server import RedisServer, wait_until


@pytest.mark.parametrize(
    ("other", "says"),
    [({"hash_seed": "other"}, "hash_seed"), ({"atlas": {"algorithm": "fnv64a_cbor"}}, "algorithm")],
)
def test_who_keys_otherwise_writes_nothing_and_is_told_why(
    redis_server: RedisServer, other: dict[str, Any], says: str
) -> None:
    first = new_atlas(redis_server)
    with closing(first):
        first.ingest(b"kv@a@m", 0, FIRST)
        settle(first)
        second = new_atlas(redis_server, **other)
        with closing(second):
            second.ingest(b"kv@b@m", 0, FIRST)
            wait_until(lambda: says in status_of(second).writer.says)
            assert status_of(second).writer.phase == "apart"
        assert dict(first.score(TOKENS, model=MODEL)) == {"a": 2.0}


def test_who_has_larger_blocks_of_a_model_is_doubted(redis_server: RedisServer) -> None:
    """Their keys never meet those that readers make."""
    index = IndexConfig(kind="remote", server=remote_settings(redis_server), sharing=QUICK)
    models = {MODEL: ModelConfig(block_size_tokens=32)}
    first = new_atlas(redis_server)
    larger = Atlas(AtlasConfig(hash_seed="s", models=models, index=index))
    with closing(first, larger):
        first.ingest(b"kv@a@m", 0, FIRST)
        larger.ingest(b"kv@b@m", 0, batch({**stored([1, 2], TOKENS), "block_size": 32}))
        reader = new_reader(redis_server)
        with closing(reader):
            settle(first, larger, reader=reader)
            scores = reader.score(TOKENS, model=MODEL)
            assert dict(scores) == {"a": 2.0} and not scores.is_whole
            (said,) = [says for says in reader.status().sessions.values() if says]
            assert "expected blocks of 16 tokens, as another session's, got 32" in said
            doubts = {view.pod: view.doubts for view in reader.pods()}
            assert said in doubts["b"] and not any(said in doubt for doubt in doubts["a"])
