"""What replicas record of their model servers, and the pods that it makes."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import msgspec
import pytest

from kvatlas.cluster.serve.replicas.advertising import Advertisement, KvatlasReplica, read_advertisement
from kvatlas.cluster.serve.replicas.replica_pods import ReplicaPods
from kvatlas.index.choosing.serving import Serving
from kvatlas.index.errors import ConfigError
from kvatlas.ingest.sockets.source_config import SourceConfig

TOLD = Advertisement(
    model="m",
    endpoint="tcp://10.0.0.1:5557",
    replay_endpoint="tcp://10.0.0.1:5558",
    ranks=2,
    block_size_tokens=16,
    labels={"rack": "r1"},
    serving=Serving(adapters=("a",), requests_max=8),
)


class Deployment(NamedTuple):
    app_name: str
    name: str


class Id(NamedTuple):
    unique_id: str
    deployment_id: Deployment = Deployment("app", "llm")


class Replica(msgspec.Struct):
    replica_id: Id
    routing_stats: dict[str, Any] = {}
    replica_metadata: dict[str, Any] = {}
    node_id: str = "node"
    availability_zone: str | None = None


class Engine(KvatlasReplica):
    def __init__(self, told: Advertisement | None) -> None:
        if told is not None:
            self.advertise(told)


class Recording:
    def record_routing_stats(self) -> dict[str, Any]:
        return {"other": 1}


class AsyncRecording:
    async def record_routing_stats(self) -> dict[str, Any]:
        return {"other": 2}


def test_what_a_replica_advertises_is_read_as_it_was_said() -> None:
    engine = Engine(TOLD)
    for record in (engine.record_routing_stats, engine.record_replica_metadata):
        assert read_advertisement(asyncio.run(record()), {}) == TOLD
    assert read_advertisement({}, asyncio.run(engine.record_replica_metadata())) == TOLD


def test_a_replica_that_has_not_advertised_records_nothing() -> None:
    assert asyncio.run(Engine(None).record_routing_stats()) == {}
    assert read_advertisement({}, {}) is None


@pytest.mark.parametrize("other", [Recording, AsyncRecording])
def test_what_other_bases_record_is_kept(other: type) -> None:
    both: Any = type("Both", (KvatlasReplica, other), {})()
    both.advertise(TOLD)
    recorded = asyncio.run(both.record_routing_stats())
    assert set(recorded) == {"other", "kvatlas"}


def test_an_endpoint_that_listens_everywhere_is_told_with_the_address_of_the_node() -> None:
    engine = Engine(Advertisement(endpoint="tcp://*:5557", replay_endpoint="tcp://0.0.0.0:5558"))
    told = read_advertisement(asyncio.run(engine.record_routing_stats()), {})
    assert told is not None
    for endpoint in (told.endpoint, told.replay_endpoint):
        assert endpoint is not None
        assert "*" not in endpoint
        assert "0.0.0.0" not in endpoint


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Advertisement(endpoint="http://x"),
        lambda: Advertisement(endpoint="tcp://h:1", sources=(SourceConfig(endpoint="tcp://h:2"),)),
        lambda: Advertisement(endpoint="tcp://h:99999"),
    ],
)
def test_what_nobody_could_follow_is_refused_where_it_is_advertised(wrong: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        Engine(wrong())


def test_a_pod_has_all_that_is_advertised_and_its_place_in_serve() -> None:
    replica = Replica(Id("r1"), asyncio.run(Engine(TOLD).record_routing_stats()), availability_zone="z")
    (pod,) = ReplicaPods("app", "llm", "").pods([replica]).values()
    assert pod.pod == "app#llm#r1"
    assert [source.endpoint for source in pod.sources] == ["tcp://10.0.0.1:5557", "tcp://10.0.0.1:5558"]
    assert all(source.pod == pod.pod and source.overrides_topic for source in pod.sources)
    assert (pod.model, pod.node, pod.serving.ranks) == ("m", "node", 2)
    assert pod.serving.adapters == ("a",)
    assert pod.labels == {"rack": "r1", "zone": "z", "serve_app": "app", "serve_deployment": "llm"}


def test_what_ray_records_of_its_own_llm_replicas_is_understood() -> None:
    told = {
        "endpoint": "tcp://10.0.0.1:5557",
        "replay_endpoint": "tcp://10.0.0.1:6557",
        "block_size": 32,
        "max_num_batched_tokens": 8192,
        "dp_rank": 3,
    }
    (pod,) = ReplicaPods("app", "llm", "m").pods([Replica(Id("r"), {"kv_event_metadata": told})]).values()
    (source,) = pod.sources
    assert (source.endpoint, source.replay_endpoint, source.rank) == (*list(told.values())[:2], 3)
    assert (pod.block_size_tokens, pod.serving.batch_tokens_max) == (32, 8192)


def test_newer_records_go_before_those_of_the_start() -> None:
    old, new = ({"kvatlas": {"model": model}} for model in ("old", "new"))
    told = read_advertisement(new, old)
    assert told is not None
    assert told.model == "new"


def test_a_replica_that_says_nothing_is_a_pod_without_events_of_the_model_of_the_others() -> None:
    told = {"kvatlas": {"model": "m", "endpoint": "tcp://h:1"}}
    pods = ReplicaPods("app", "llm", "")
    silent, loud = pods.pods([Replica(Id("a")), Replica(Id("b"), told)]).values()
    assert (silent.model, silent.sources) == ("m", ())
    assert len(loud.sources) == 1
    assert pods.model == "m"


def test_without_any_word_the_model_is_called_like_the_deployment() -> None:
    pods = ReplicaPods("app", "llm", "")
    (pod,) = pods.pods([Replica(Id("a"))]).values()
    assert pod.model == pods.model == "llm"


@pytest.mark.parametrize(
    "record",
    [
        {"kvatlas": 7},
        {"kvatlas": {"endpoint": 5}},
        {"kvatlas": {"endpoint": "nonsense"}},
        {"kvatlas": {"endpoint": "tcp://h:1", "serving": {"role": "cook"}}},
        {"kv_event_metadata": {"endpoint": None}},
        {"kv_event_metadata": []},
        {"kv_event_metadata": {"endpoint": "tcp://h:1", "block_size": "many"}},
    ],
)
def test_records_that_cannot_be_read_leave_a_pod_without_events_and_are_counted_once(
    record: dict[str, Any],
) -> None:
    pods = ReplicaPods("app", "llm", "m")
    for _ in range(3):
        (pod,) = pods.pods([Replica(Id("a"), record)]).values()
        assert pod.sources == ()
    assert pods.refused == 1


def test_a_broken_record_raises_with_its_path() -> None:
    with pytest.raises(ConfigError, match=r"kvatlas: .*ranks"):
        read_advertisement({"kvatlas": {"ranks": "two"}}, {})


def test_fields_of_a_newer_release_are_left_out() -> None:
    told = read_advertisement({"kvatlas": {"model": "m", "colour": "blue"}}, {})
    assert told == Advertisement(model="m")
