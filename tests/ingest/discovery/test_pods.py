"""Pods as they travel, and as people write them."""

from __future__ import annotations

import msgspec
import pytest

from kvatlas.index.errors import ConfigError, DecodeError
from kvatlas.ingest.config import PodConfig
from kvatlas.ingest.discovery.config import (
    DiscoveryConfig,
    DiscoveryLimits,
    FileWatchConfig,
    HttpWatchConfig,
    KubernetesWatchConfig,
    StaticWatchConfig,
)
from kvatlas.ingest.discovery.entries import PodEntry
from kvatlas.ingest.discovery.pods import DiscoveredPod, decode_pod, encode_pod
from kvatlas.ingest.sockets.curve import CurveConfig
from kvatlas.ingest.sockets.source_config import SourceConfig

KEY = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
POD = DiscoveredPod(
    pod="a",
    sources=(
        SourceConfig(endpoint="tcp://h:1", pod="a", rank=0, curve=CurveConfig(server_key=KEY)),
        SourceConfig(endpoint="tcp://*:2", bind=True, replay_endpoint="tcp://{host}:{5558+rank}"),
    ),
    block_size_tokens=16,
    settings=PodConfig(model="m", stores=("s",), gpu_blocks=7, draft_groups=(1,)),
    node="10.0.0.1",
    labels={"zone": "b"},
    found_by="tests",
)


def test_a_pod_travels_whole() -> None:
    assert decode_pod(encode_pod(POD)) == POD
    assert decode_pod(encode_pod(DiscoveredPod(pod="b", url="http://h"))) == DiscoveredPod(
        pod="b", url="http://h"
    )


def test_fields_of_a_newer_release_are_left_out() -> None:
    raw = msgspec.msgpack.decode(encode_pod(POD))
    raw["colour"] = raw["settings"]["colour"] = "red"
    for source in raw["sources"]:
        source["colour"] = "red"
    raw["sources"][0]["curve"]["colour"] = "red"
    assert decode_pod(msgspec.msgpack.encode(raw)) == POD


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode([]),
        msgspec.msgpack.encode({}),
        msgspec.msgpack.encode({"pod": 7}),
        msgspec.msgpack.encode({"pod": "a", "sources": 7}),
        msgspec.msgpack.encode({"pod": "a", "sources": [7]}),
        msgspec.msgpack.encode({"pod": "a", "settings": []}),
        msgspec.msgpack.encode({"pod": "a", "sources": [{"endpoint": "tcp://h:1", "rank": -1}]}),
        msgspec.msgpack.encode({"pod": "a", "sources": [{"endpoint": "tcp://h:1", "curve": 3}]}),
    ],
)
def test_bytes_that_are_no_pod_are_refused(raw: bytes) -> None:
    with pytest.raises(DecodeError, match="pod: expected the bytes of one"):
        decode_pod(raw)


def test_an_entry_becomes_a_pod_with_a_source_for_each_rank() -> None:
    found = PodEntry(pod="a", endpoint="tcp://[fd00::1]:5557", ranks=2, model="m").discovered("static")
    assert [source.endpoint for source in found.sources] == ["tcp://[fd00::1]:5557", "tcp://[fd00::1]:5558"]
    assert [(source.pod, source.model, source.rank) for source in found.sources] == [
        ("a", "m", 0),
        ("a", "m", 1),
    ]
    assert (found.model, found.found_by) == ("m", "static")


def test_an_entry_with_sources_in_full_keeps_them() -> None:
    assert PodEntry(pod="a", sources=POD.sources).discovered("").sources == POD.sources


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"endpoint": "tcp://h:1", "url": "http://h"}, "one of endpoint, sources and url"),
        ({}, "one of endpoint, sources and url, got none"),
        ({"url": "http://h", "ranks": 2}, "only beside endpoint"),
        ({"url": "http://h", "replay_endpoint": "tcp://h:1"}, "only beside endpoint"),
        ({"endpoint": "ipc:///tmp/x", "ranks": 2}, "a port to add rank 1 to"),
        ({"endpoint": "tcp://h:1", "ranks": 0}, "ranks: expected 1 to 256"),
        ({"endpoint": "tcp://h:1", "replay_endpoint": "h:2"}, "sources.replay_endpoint: expected tcp://"),
        ({"endpoint": "tcp://fd00::1:5557"}, "sources.endpoint: expected tcp://"),
        ({"url": "http://h/?x=1"}, "url: expected"),
        ({"endpoint": "tcp://h:1", "block_size_tokens": 4097}, "block_size_tokens: expected"),
        (
            {"endpoint": "tcp://h:1", "settings": {"offload_chunk_blocks": 0}},
            "offload_chunk_blocks: expected",
        ),
    ],
)
def test_an_entry_that_cannot_be_meant_is_refused_with_the_reason(
    entry: dict[str, object], message: str
) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert({"pod": "a", **entry}, PodEntry)


def test_the_kind_of_a_watch_chooses_its_struct() -> None:
    raw = {
        "watches": [
            {"kind": "static", "pods": [{"pod": "a", "endpoint": "tcp://h:1"}]},
            {"kind": "file", "path": "pods.yaml"},
            {"kind": "http", "port": 0},
            {"kind": "kubernetes", "namespace": "models"},
        ],
        "limits": {"grace_s": 5},
    }
    config = msgspec.convert(raw, DiscoveryConfig)
    kinds = [type(watch) for watch in config.watches]
    assert kinds == [StaticWatchConfig, FileWatchConfig, HttpWatchConfig, KubernetesWatchConfig]
    assert config.limits.grace_s == 5
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(config), type=DiscoveryConfig) == config


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        (DiscoveryLimits, {"grace_s": -1}),
        (DiscoveryLimits, {"hold_s_min": 10, "hold_s_max": 5}),
        (DiscoveryLimits, {"pods_max": 0}),
        (DiscoveryLimits, {"ask_s_max": float("nan")}),
        (FileWatchConfig, {"path": "x", "look_every_s": 0}),
        (HttpWatchConfig, {"port": 65536}),
        (HttpWatchConfig, {"token": "a", "token_file": "b"}),
        (HttpWatchConfig, {"token": "é"}),
        (KubernetesWatchConfig, {"event_port": 0}),
        (KubernetesWatchConfig, {"ranks": 0}),
        (KubernetesWatchConfig, {"namespace": "a", "all_namespaces": True}),
    ],
)
def test_values_out_of_range_are_configuration_errors(
    kind: type[msgspec.Struct], bad: dict[str, object]
) -> None:
    with pytest.raises(ConfigError, match="expected"):
        kind(**bad)


def test_two_watches_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="a name of its own"):
        DiscoveryConfig(watches=(FileWatchConfig(path="a"), FileWatchConfig(path="b")))
