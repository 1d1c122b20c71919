"""What is made of a pod of Kubernetes: addresses, ports, annotations."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from kvatlas.index.errors import ConfigError, InputError
from kvatlas.ingest.discovery.config import KubernetesWatchConfig
from kvatlas.ingest.discovery.kube.book import PodBook
from kvatlas.ingest.discovery.kube.objects import KubePod, as_discovered
from kvatlas.ingest.discovery.pods import DiscoveredPod
from tests.ingest.discovery.kubernetes_api import pod


def read(raw: dict[str, Any]) -> KubePod:
    return msgspec.json.decode(json.dumps(raw).encode(), type=KubePod)


def made(raw: dict[str, Any], **config: Any) -> DiscoveredPod:
    return as_discovered(read(raw), KubernetesWatchConfig(**config))


def endpoints(found: DiscoveredPod) -> list[tuple[str, str | None]]:
    return [(source.endpoint, source.replay_endpoint) for source in found.sources]


def test_ipv6_addresses_are_bracketed() -> None:
    found = made(pod("a", "fd00::7"))
    assert endpoints(found) == [("tcp://[fd00::7]:5557", "tcp://[fd00::7]:5558")]
    assert made(pod("a", "fd00::7"), ask_port=8000).url == "http://[fd00::7]:8000"


@pytest.mark.parametrize(
    ("family", "host"), [("first", "10.0.0.1"), ("ipv4", "10.0.0.1"), ("ipv6", "[fd00::7]")]
)
def test_of_a_dual_stack_pod_the_wanted_address_is_taken(family: str, host: str) -> None:
    found = made(pod("a", "10.0.0.1", "fd00::7"), address_family=family)
    assert endpoints(found)[0][0] == f"tcp://{host}:5557"


def test_a_pod_without_an_address_of_the_wanted_family_says_so() -> None:
    with pytest.raises(InputError, match=r"expected an ipv6 address, got 10\.0\.0\.1"):
        made(pod("a", "10.0.0.1"), address_family="ipv6")


def test_old_clusters_that_tell_one_address_are_understood() -> None:
    raw = pod("a", "10.0.0.1")
    del raw["status"]["podIPs"]
    assert endpoints(made(raw))[0][0] == "tcp://10.0.0.1:5557"


def test_each_rank_has_both_ports_raised() -> None:
    found = made(pod("a", "10.0.0.1"), ranks=2, event_port=6000, replay_port=7000)
    assert endpoints(found) == [
        ("tcp://10.0.0.1:6000", "tcp://10.0.0.1:7000"),
        ("tcp://10.0.0.1:6001", "tcp://10.0.0.1:7001"),
    ]
    assert [source.rank for source in found.sources] == [0, 1]


def test_annotations_go_before_the_configuration() -> None:
    notes = {
        "kvatlas/model": "some/model",
        "kvatlas/event-port": "6000",
        "kvatlas/replay-port": "none",
        "kvatlas/ranks": "2",
        "kvatlas/stores": "nvme,shared",
        "kvatlas/gpu-blocks": "1000",
        "kvatlas/block-size-tokens": "32",
    }
    found = made(pod("a", "10.0.0.1", annotations=notes, labels={"llm-d.ai/model": "other"}))
    assert endpoints(found) == [("tcp://10.0.0.1:6000", None), ("tcp://10.0.0.1:6001", None)]
    assert (found.model, found.stores) == ("some/model", ("nvme", "shared"))
    assert (found.settings.gpu_blocks, found.block_size_tokens) == (1000, 32)


def test_annotations_can_have_the_server_asked_or_not() -> None:
    asked = made(pod("a", "10.0.0.1", annotations={"kvatlas/ask-port": "8000"}))
    assert (asked.url, asked.sources) == ("http://10.0.0.1:8000", ())
    assert made(pod("a", "10.0.0.1", annotations={"kvatlas/ask-port": "none"}), ask_port=8000).url is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("event-port", "0"),
        ("event-port", "65536"),
        ("event-port", "none"),
        ("replay-port", "http"),
        ("ranks", "257"),
        ("ranks", "-1"),
        ("ranks", "9" * 5000),
        ("ranks", "²"),
        ("gpu-blocks", "many"),
        ("block-size-tokens", "5000"),
    ],
)
def test_annotations_that_cannot_be_meant_are_counted_and_the_pod_is_left_out(name: str, value: str) -> None:
    book = PodBook(KubernetesWatchConfig())
    raw = pod("a", "10.0.0.1", annotations={f"kvatlas/{name}": value})
    raw["metadata"] |= {"uid": "1", "resourceVersion": "5"}
    assert book.listed([read(raw)], "5") == []
    assert book.counts["bad_objects"] == 1
    assert f"kvatlas/{name}: expected" in book.said and len(book.said) <= 300


@pytest.mark.parametrize("ip", ["10.0.0.1/../../x", "host", "10.0.0.1\n", "::1%eth0:"])
def test_what_is_no_address_goes_into_no_endpoint(ip: str) -> None:
    with pytest.raises(InputError):
        made(pod("a", ip))


@pytest.mark.parametrize(
    ("kind", "wanted"), [("name", "a"), ("namespace/name", "models/a"), ("ip", "10.0.0.1")]
)
def test_the_id_is_what_was_chosen(kind: str, wanted: str) -> None:
    assert made(pod("a", "10.0.0.1"), pod_id=kind).pod == wanted


def test_names_alone_are_no_ids_over_all_namespaces() -> None:
    with pytest.raises(ConfigError, match="pod_id"):
        KubernetesWatchConfig(all_namespaces=True)


def test_two_objects_of_one_id_are_one_pod_until_both_are_gone() -> None:
    book = PodBook(KubernetesWatchConfig(pod_id="ip"))  # the network of the host, for one
    one, two = pod("a", "10.0.0.1"), pod("b", "10.0.0.1")
    for number, raw in enumerate((one, two)):
        raw["metadata"] |= {"uid": str(number), "resourceVersion": str(number + 1)}
    assert [found.pod for found in book.listed([read(one), read(two)], "2")] == ["10.0.0.1"]
    there, left = book.deleted(read(one))
    assert ([found.pod for found in there], left) == (["10.0.0.1"], [])
    assert book.deleted(read(two)) == ([], ["10.0.0.1"])
