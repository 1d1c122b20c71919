"""Configurations written as YAML and read again."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.cluster.config.actors_config import Resources, ScorersConfig, ShardsConfig, SubscribersConfig
from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.cluster.config.loading import load_config
from kvatlas.cluster.config.writing import difference, to_plain, to_yaml
from kvatlas.ingest.config import AtlasConfig, ModelConfig, PodConfig
from kvatlas.ingest.discovery.config import DiscoveryConfig, FileWatchConfig, StaticWatchConfig
from kvatlas.ingest.discovery.entries import PodEntry

TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
AMOUNTS = st.floats(0, 1e6, allow_nan=False)
NAMES = st.from_regex(r"[A-Za-z0-9:'{}#-]{1,20}", fullmatch=True)
RESOURCES = st.builds(Resources, cpus=AMOUNTS, custom=st.dictionaries(TEXTS, AMOUNTS, max_size=3))
PODS = st.builds(
    PodEntry,
    pod=st.from_regex(r"[a-z0-9.:-]{1,20}", fullmatch=True),
    endpoint=st.integers(1, 60_000).map("tcp://10.0.0.1:{}".format),
    ranks=st.integers(1, 4),
    settings=st.builds(
        PodConfig, gpu_blocks=st.none() | st.integers(1, 1 << 20), offloads=st.none() | st.booleans()
    ),
    labels=st.dictionaries(NAMES, NAMES, max_size=2),
)
WATCHES = st.one_of(
    st.builds(StaticWatchConfig, pods=st.lists(PODS, max_size=3, unique_by=lambda pod: pod.pod).map(tuple)),
    st.builds(FileWatchConfig, path=TEXTS, look_every_s=st.floats(0.1, 60)),
)
CONFIGS = st.builds(
    ClusterConfig,
    name=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True),
    lifetime=st.sampled_from(["detached", "owned"]),
    shards=st.builds(
        ShardsConfig,
        count=st.integers(1, 1024),
        nodes=st.lists(TEXTS, max_size=3).map(tuple),
        resources=RESOURCES,
    ),
    subscribers=st.builds(SubscribersConfig, checkpoint_folder=st.none() | TEXTS, resources=RESOURCES),
    scorers=st.builds(ScorersConfig, count=st.integers(0, 1024)),
    discovery=WATCHES.map(lambda watch: DiscoveryConfig(watches=(watch,))),
    atlas=st.builds(
        AtlasConfig,
        models=st.dictionaries(
            TEXTS,
            st.builds(ModelConfig, lora_names=st.dictionaries(st.integers(0, 9), TEXTS, max_size=2)),
            max_size=3,
        ),
    ),
)


def read_again(config: ClusterConfig) -> ClusterConfig:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cluster.yaml"
        file.write_text(to_yaml(config), encoding="utf-8")
        return load_config(file, {})


@pytest.mark.slow
@given(CONFIGS)
def test_what_is_written_is_read_as_the_same(config: ClusterConfig) -> None:
    assert read_again(config) == config


@given(CONFIGS)
def test_plain_values_of_all_fields_are_read_as_the_same(config: ClusterConfig) -> None:
    plain: dict[str, Any] = to_plain(config, everything=True)
    del plain["atlas"]["hash_seed"]
    assert load_config(None, {}, **plain) == config


@given(CONFIGS, CONFIGS)
def test_two_configurations_differ_exactly_where_lines_say_so(
    one: ClusterConfig, other: ClusterConfig
) -> None:
    assert bool(difference(one, other)) == (one != other)
    assert difference(one, one) == []


def test_a_difference_names_the_path_and_both_values() -> None:
    one = ClusterConfig(shards=ShardsConfig(count=8), atlas=AtlasConfig(models={"a/b": ModelConfig()}))
    assert difference(one, ClusterConfig()) == [
        "$.shards.count: 8, not 4",
        "$.atlas.models['a/b']: {}, not None",
    ]


def test_only_what_differs_from_the_defaults_is_written() -> None:
    assert to_yaml(ClusterConfig()) == "{}\n"
    assert to_yaml(ClusterConfig(name="a", shards=ShardsConfig(count=8))) == "name: a\nshards:\n  count: 8\n"


def test_a_configuration_travels_as_msgpack() -> None:
    config = ClusterConfig(discovery=DiscoveryConfig(watches=(FileWatchConfig(path="a"),)))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(config), type=ClusterConfig) == config
