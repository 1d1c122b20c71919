"""A cluster answers as an embedded atlas does, whether its tables are looked at or asked."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvatlas import Atlas
from kvatlas.actors.reading.cluster_reader import ClusterReader
from kvatlas.index.keys import Algorithm
from kvatlas.index.scores import Scores
from kvatlas.ingest.config import AtlasConfig, ModelConfig, PodConfig
from kvatlas.ingest.simulator.block_pool import OutOfBlocksError
from kvatlas.ingest.simulator.cache_groups import CacheGroup
from kvatlas.ingest.simulator.options import EngineOptions
from kvatlas.ingest.simulator.server import SimulatedServer
from tests.actors.reading.small_cluster import ELSEWHERE, SEED, SmallCluster
from tests.ingest.plain_batches import batch, stored
from tests.profiles import examples

BLOCK = 4
FULL = CacheGroup()
WINDOW = CacheGroup(kind="sliding_window", window_tokens=9)
STATE = CacheGroup(kind="mamba")
ENGINES = (
    EngineOptions(block_size=BLOCK, blocks=40),
    EngineOptions(block_size=BLOCK, blocks=30, drops_matched_block=True),
    EngineOptions(block_size=BLOCK, blocks=60, groups=(FULL, WINDOW)),
    EngineOptions(block_size=BLOCK, blocks=60, groups=(FULL, STATE), retention_tokens=12),
    EngineOptions(block_size=BLOCK, blocks=30, cpu_blocks=300, chunk_blocks=2),
)


@dataclass
class Told:
    """An atlas and a cluster that hear the same servers."""

    atlas: Atlas
    cluster: SmallCluster
    servers: list[SimulatedServer]

    def serve(self, server: SimulatedServer, prompt: list[int], output: int) -> None:
        try:
            request = server.prefill(prompt)
        except OutOfBlocksError:
            self._hear(server)
            return
        self._hear(server)
        try:
            server.decode(request, output)
        except OutOfBlocksError:
            pass
        finally:
            self._hear(server)
            server.finish(request)
        self._hear(server)

    def _hear(self, server: SimulatedServer) -> None:
        while True:
            payload = server.step()
            if payload is not None:
                number = self.numbers[server.topic] = self.numbers.get(server.topic, -1) + 1
                self.atlas.ingest(server.topic.encode(), number, payload)
                self.cluster.mirror.ingest(server.topic.encode(), number, payload)
            if not server.has_pending_work:
                return

    def __post_init__(self) -> None:
        self.numbers: dict[str, int] = {}


def told_by(engines: list[EngineOptions], n_shards: int, folder: Path, algorithm: Algorithm) -> Told:
    pods = {
        f"pod-{i}": PodConfig(
            offload_chunk_blocks=options.chunk_blocks, drops_matched_block=options.drops_matched_block
        )
        for i, options in enumerate(engines)
    }
    config = AtlasConfig(
        hash_seed=SEED,
        algorithm=algorithm,
        table_bytes_max=1 << 23,
        models={"m": ModelConfig(block_size_tokens=BLOCK)},
        pods=pods,
    )
    servers = [
        SimulatedServer(pod, "m", **{name: getattr(options, name) for name in options.__struct_fields__})
        for pod, options in zip(pods, engines, strict=True)
    ]
    return Told(Atlas(config), SmallCluster(n_shards, folder, config), servers)


def random_prompt(rnd: random.Random) -> list[int]:
    """Long enough for two segments, of few different stretches, so that prompts share their heads."""
    heads = [rnd.choice([0, 0, 0, 1]) for _ in range(rnd.randint(1, 3))]
    tokens = [1000 * head + i for head in heads for i in range(60 * BLOCK)]
    return tokens[: rnd.randint(1, len(tokens))]


def same(one: Scores, other: Scores) -> bool:
    return (
        one.matches == other.matches and dict(one) == dict(other) and one.prompt_blocks == other.prompt_blocks
    )


@pytest.mark.slow
@settings(
    max_examples=examples(12),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    seed=st.integers(0, 2**32),
    engines=st.lists(st.sampled_from(ENGINES), min_size=1, max_size=4),
    n_shards=st.integers(1, 8),
    algorithm=st.sampled_from(["fold64", "fold64", "fnv64a_cbor"]),
    asked_shards=st.sets(st.integers(0, 7)),
)
def test_looking_and_asking_answer_as_the_embedded_atlas(
    seed: int,
    engines: list[EngineOptions],
    n_shards: int,
    algorithm: Algorithm,
    asked_shards: set[int],
    tmp_path: Path,
) -> None:
    rnd = random.Random(seed)
    told = told_by(engines, n_shards, tmp_path, algorithm)
    cluster = told.cluster
    cluster.nodes = [ELSEWHERE if n in asked_shards else node for n, node in enumerate(cluster.nodes)]
    try:
        for _ in range(8):
            told.serve(rnd.choice(told.servers), random_prompt(rnd), rnd.choice([0, 0, 3, 9]))
        cluster.feed()
        readers = [cluster.reader(), cluster.reader("a third node")]
        for reader in readers:
            reader.wait_ready(60)
            compare(told.atlas, reader, [random_prompt(rnd) for _ in range(6)], rnd)
    finally:
        cluster.close()
        told.atlas.close()


def compare(atlas: Atlas, reader: ClusterReader, prompts: list[list[int]], rnd: random.Random) -> None:
    for prompt in prompts:
        pods = rnd.choice([None, None, ["pod-0"], ["pod-1", "pod-2", "nobody"], []])
        for strategy in ("reusable", "longest_prefix"):
            expected = atlas.score(prompt, model="m", pods=pods, strategy=strategy)
            found = reader.score(prompt, model="m", pods=pods, strategy=strategy)
            assert same(found, expected)
            assert found.is_whole
        assert reader.explain(prompt, model="m", pods=pods) == atlas.explain(prompt, model="m", pods=pods)
    many = reader.score_many(prompts, model="m")
    assert all(same(one, atlas.score(p, model="m")) for one, p in zip(many, prompts, strict=True))
    assert dict(reader.score(prompts[0], model="nobody's")) == {}


@pytest.mark.slow
@pytest.mark.parametrize("node", ["node-here", "elsewhere"])
def test_stores_that_two_pods_share_count_for_both(node: str, tmp_path: Path) -> None:
    config = AtlasConfig(
        hash_seed=SEED, pods={pod: PodConfig(stores=("nfs",)) for pod in ("writer", "reader")}
    )
    atlas, cluster = Atlas(config), SmallCluster(3, tmp_path, config)
    prompt = list(range(16 * 200))
    hashes = list(range(1, 201))
    dense = stored(hashes, prompt)
    on_disk = dense | {"token_ids": [], "block_size": 0, "medium": "storage"}
    try:
        for to in (atlas, cluster.mirror):
            to.ingest(b"kv@writer@m", 0, batch(dense, on_disk))
            to.ingest(b"kv@reader@m", 0, batch(stored([1], prompt[:16])))
        cluster.feed()
        reader = cluster.reader(node)
        reader.wait_ready(60)
        expected, found = atlas.score(prompt, model="m"), reader.score(prompt, model="m")
        assert same(found, expected)
        assert {match.pod: match.tier_blocks for match in found.matches}["reader"]["storage"] > 100
        assert reader.explain(prompt, model="m") == atlas.explain(prompt, model="m")
    finally:
        cluster.close()
        atlas.close()
