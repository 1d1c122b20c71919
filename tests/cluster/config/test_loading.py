"""A configuration from a file, the environment and keywords: what wins, what is refused, and how."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvatlas.cluster.config.actors_config import Resources, ShardsConfig
from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.cluster.config.loading import load_config
from kvatlas.index.errors import ConfigError
from kvatlas.ingest.discovery.config import HttpWatchConfig, KubernetesWatchConfig, StaticWatchConfig

ROOT = Path(__file__).resolve().parents[3]


def written(folder: Path, text: str) -> Path:
    file = folder / "cluster.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def refusal(**changes: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(None, {}, **changes)
    return str(caught.value)


def test_without_anything_all_is_at_its_default() -> None:
    assert load_config(None, {}) == ClusterConfig()


def test_keywords_win_over_the_environment_over_the_file_over_defaults(tmp_path: Path) -> None:
    file = written(tmp_path, "name: from-file\nshards: {count: 2, placement: pack}\nscorers: {count: 1}\n")
    environment = {"KVATLAS__SHARDS__COUNT": "3", "KVATLAS__SCORERS__COUNT": "3", "PATH": "/bin"}
    config = load_config(file, environment, scorers__count=4)
    assert (config.name, config.shards.placement) == ("from-file", "pack")
    assert (config.shards.count, config.scorers.count, config.lifetime) == (3, 4, "detached")


def test_maps_are_merged_and_lists_replaced(tmp_path: Path) -> None:
    file = written(
        tmp_path, "atlas:\n  models: {a/b: {block_size_tokens: 16}, c: {}}\nshards: {nodes: [one, two]}\n"
    )
    config = load_config(
        file,
        {"KVATLAS__ATLAS__MODELS": "{a/b: {lora_names: {1: x}}, d: {}}"},
        shards={"nodes": ["three"]},
    )
    assert sorted(config.atlas.models) == ["a/b", "c", "d"]
    assert config.atlas.models["a/b"].block_size_tokens == 16
    assert config.atlas.models["a/b"].lora_names == {1: "x"}
    assert config.shards.nodes == ("three",)


def test_a_struct_as_keyword_takes_the_place_of_the_map(tmp_path: Path) -> None:
    file = written(tmp_path, "shards: {count: 2, placement: pack}\n")
    config = load_config(file, {}, shards=ShardsConfig(count=5))
    assert config.shards == ShardsConfig(count=5)


def test_two_ways_of_saying_a_keyword_go_together() -> None:
    config = load_config(None, {}, shards=ShardsConfig(count=5), shards__placement="pack")
    assert (config.shards.count, config.shards.placement) == (5, "pack")


def test_texts_of_the_environment_are_not_read_as_yaml() -> None:
    config = load_config(None, {"KVATLAS__NAME": "0123", "KVATLAS__SUBSCRIBERS__CHECKPOINT_FOLDER": "no"})
    assert (config.name, config.subscribers.checkpoint_folder) == ("0123", "no")


def test_watches_are_told_apart_by_their_kind(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        """
discovery:
  watches:
    - {kind: static, pods: [{pod: a, endpoint: "tcp://10.0.0.1:5557", model: m}]}
    - {kind: kubernetes, namespace: llm}
    - {kind: http, token: {env: TOKEN}}
""",
    )
    static, kubernetes, http = load_config(file, {"TOKEN": "s3cret"}).discovery.watches
    assert isinstance(static, StaticWatchConfig) and static.pods[0].pod == "a"
    assert isinstance(kubernetes, KubernetesWatchConfig) and kubernetes.namespace == "llm"
    assert isinstance(http, HttpWatchConfig) and http.token == "s3cret"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shards": {"cuont": 4}}, "$.shards.cuont: expected a known key, perhaps count, got 'cuont'"),
        ({"zzz": 4}, "$.zzz: expected one of atlas, choosing, directory,"),
        ({"shards__count": 0}, "$.shards.count: expected int >= 1, got 0"),
        ({"shards__count": 2000}, "$.shards.count: expected int <= 1024, got 2000"),
        ({"shards__count": "4"}, "$.shards.count: expected int, got '4'"),
        ({"shards__count": True}, "$.shards.count: expected int, got True"),
        ({"shards": 3}, "$.shards: expected fields of ShardsConfig, got 3"),
        ({"shards__placement": "near"}, "$.shards.placement: expected one of spread, pack, got 'near'"),
        ({"shards__resources__custom": {"a": -1}}, "$.shards.resources.custom['a']: expected float >= 0.0"),
        ({"name": "No spaces"}, "$.name: expected 1 to 63 lower-case letters"),
        ({"name": "-"}, "$.name: expected 1 to 63"),
        ({"name": "a\n"}, "$.name: expected 1 to 63"),
        (
            {"atlas__models": {"m": {"block_size_tokens": 0}}},
            "$.atlas.models['m'].block_size_tokens: expected",
        ),
        ({"atlas__models": {"m": {"lora_names": {"x": "y"}}}}, "$.atlas.models['m'].lora_names['x']: key: "),
        ({"atlas__shards": 2}, "$.atlas.shards: expected 1 here (the number of shards is shards.count)"),
        ({"atlas__stream__retry_s_min": 60}, "$.atlas.stream.retry_s_min: expected at most retry_s_max"),
        ({"directory__lane_rest_s": 5}, "$.directory.lane_rest_s: expected more than reading.view_s_max"),
        ({"discovery__watches": [{"kind": "dns"}]}, "$.discovery.watches[0].kind: expected one of static, "),
        ({"discovery__watches": [{}]}, "$.discovery.watches[0].kind: expected one of static, "),
        ({"discovery__watches": [3]}, "$.discovery.watches[0]: expected fields, kind among them, got 3"),
        (
            {"discovery__watches": [{"kind": "file"}]},
            "$.discovery.watches[0].path: expected a value, got none",
        ),
        (
            {"discovery__watches": [{"kind": "static", "pods": [{"pod": "a"}]}]},
            "$.discovery.watches[0].pods[0].'a': expected one of endpoint, sources and url",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_its_path(changes: dict[str, object], said: str) -> None:
    assert refusal(**changes).startswith(said)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("KVATLAS__SHARD__COUNT", "4", "expected a field of ClusterConfig (shards), got 'shard'"),
        ("KVATLAS__SHARDS__CUONT", "4", "expected a field of ShardsConfig (count), got 'cuont'"),
        ("KVATLAS__ATLAS__MODELS__X", "{}", "expected models as a whole, as YAML"),
        ("KVATLAS__SHARDS__COUNT", "[4", "expected YAML, got '[4'"),
        ("KVATLAS__", "4", "expected a field of ClusterConfig"),
    ],
)
def test_a_variable_that_does_not_fit_is_named(variable: str, value: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, {variable: value})
    assert str(caught.value).startswith(f"{variable}: {said}")


def test_a_value_of_the_environment_that_does_not_fit_has_its_path() -> None:
    with pytest.raises(ConfigError, match=r"^\$\.shards\.count: expected int >= 1, got 0$"):
        load_config(None, {"KVATLAS__SHARDS__COUNT": "0"})


def test_variables_for_a_whole_and_for_its_part_do_not_clash_silently() -> None:
    environment = {"KVATLAS__SHARDS": "{placement: pack}", "KVATLAS__SHARDS__COUNT": "2"}
    shards = load_config(None, environment).shards
    assert (shards.count, shards.placement) == (2, "pack")
    with pytest.raises(ConfigError, match="KVATLAS__SHARDS__COUNT: expected no variable"):
        load_config(None, {**environment, "KVATLAS__SHARDS": "3"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("shards: {count: 4}\nshards: {count: 5}\n", "'shards' twice (line 2, column 1)"),
        ("shards: [1\n", "expected YAML"),
        ("- a\n", "$: expected the fields of a configuration, got list"),
        ("a: &x {b: 1}\nc: *x\n", "expected YAML, got an alias"),
        ("? {a: 1}\n: 2\n", "expected YAML"),
        ("!!python/object/apply:os.system ['true']\n", "expected YAML"),
        ("name: '\x00'\n", "expected YAML"),
        ("[" * 100_000, "expected YAML"),
        ("shards: {count: none}\n", "$.shards.count: expected int, got 'none'"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(tmp_path: Path, text: str, said: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(file, {})
    assert str(caught.value).startswith(f"{file}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a file that can be read, got .*nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml", {})


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, "# nothing\n"), {}) == ClusterConfig()


def test_structs_made_by_hand_are_held_to_the_same_ranges() -> None:
    with pytest.raises(ConfigError, match="count: expected int >= 1, got 0"):
        ShardsConfig(count=0)
    with pytest.raises(ConfigError, match="cpus: expected float >= 0"):
        Resources(cpus=-1)


def test_the_example_is_a_configuration() -> None:
    config = load_config(ROOT / "examples" / "cluster.yaml", {"KVATLAS_HASH_SEED": "a seed of some length"})
    assert config.shards.count == 8
    assert config.atlas.hash_seed == "a seed of some length"
