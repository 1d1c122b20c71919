"""How pods serve, as entries, annotations and servers say it, and what no request could be sent to."""

from __future__ import annotations

import msgspec
import pytest

from kvatlas.index.choosing.serving import Serving
from kvatlas.index.errors import ConfigError, InputError
from kvatlas.ingest.config import PodConfig
from kvatlas.ingest.discovery.config import KubernetesWatchConfig
from kvatlas.ingest.discovery.entries import PodEntry
from kvatlas.ingest.discovery.kube.objects import KubePod, as_discovered
from kvatlas.ingest.discovery.pods import DiscoveredPod, check_pod, decode_pod, encode_pod
from kvatlas.ingest.discovery.source_query import ToldSource, told_pod
from kvatlas.ingest.sockets.source_config import SourceConfig
from tests.ingest.discovery.kubernetes_api import pod as kube_pod

ENDPOINT = "tcp://10.0.0.1:5557"


def entry(**fields: object) -> PodEntry:
    return msgspec.convert({"pod": "a", **fields}, PodEntry)


def test_an_entry_says_how_its_pod_serves() -> None:
    serving = {"url": "http://10.0.0.1:8000", "role": "decode", "adapters": ["x"], "requests_max": 32}
    found = entry(endpoint=ENDPOINT, serving=serving, labels={"zone": "z"}).discovered("test")
    assert found.serving == Serving(
        url="http://10.0.0.1:8000", role="decode", adapters=("x",), requests_max=32
    )
    assert decode_pod(encode_pod(found)) == found


def test_a_server_that_is_asked_for_its_sources_serves_there_unless_the_entry_says_where() -> None:
    assert entry(url="http://h:8000").discovered("").serving.url == "http://h:8000"
    elsewhere = entry(url="http://h:8000", serving={"url": "http://h:9000"}).discovered("")
    assert (elsewhere.url, elsewhere.serving.url) == ("http://h:8000", "http://h:9000")


def test_ranks_of_the_events_are_ranks_that_serve() -> None:
    assert entry(endpoint=ENDPOINT, ranks=4).discovered("").serving.ranks == 4
    sources = [{"endpoint": f"tcp://h:{port}", "rank": port} for port in (1, 3)]
    assert entry(sources=sources).discovered("").serving.ranks == 4
    assert entry(endpoint=ENDPOINT, ranks=4, serving={"ranks": 2}).discovered("").serving.ranks == 2
    asked = DiscoveredPod(pod="a", url="http://h:8000")
    told = (ToldSource(0, "tcp://h:1", None, None), ToldSource(1, "tcp://h:2", None, None))
    assert told_pod(asked, told).serving.ranks == 2


def test_a_pod_can_serve_without_telling_of_its_cache() -> None:
    found = entry(model="m", serving={"url": "http://h:1"}).discovered("")
    assert (found.sources, found.url, found.model) == ((), None, "m")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"model": "m"}, "expected one of endpoint, sources and url"),
        ({"serving": {"url": "http://h:1"}}, "or serving.url and a model"),
        ({"endpoint": ENDPOINT, "serving": {"url": "h:1"}}, "serving.url: expected http://"),
        ({"endpoint": ENDPOINT, "serving": {"adapters": ["a\nb"]}}, "serving.adapters: expected"),
        ({"endpoint": ENDPOINT, "serving": {"adapters": ["a"] * 1025}}, "at most 1024"),
        ({"endpoint": ENDPOINT, "serving": {"ranks": 0}}, "serving.ranks: expected 1 to 256"),
        ({"endpoint": ENDPOINT, "serving": {"requests_max": 0}}, "serving.requests_max: expected"),
        ({"endpoint": ENDPOINT, "serving": {"prefill_tokens_per_s": 0.0}}, "serving.prefill_tokens_per_s"),
    ],
)
def test_what_requests_could_not_be_sent_to_is_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises((ConfigError, InputError, msgspec.ValidationError), match=says):
        entry(**fields)


def test_a_role_that_there_is_not_and_fields_that_nobody_knows_are_refused_with_their_place() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"\$.serving.role"):
        entry(endpoint=ENDPOINT, serving={"role": "chef"})
    with pytest.raises(msgspec.ValidationError, match=r"`colour`.*\$.serving"):
        entry(endpoint=ENDPOINT, serving={"colour": "blue"})


def test_fields_of_a_newer_release_are_left_out() -> None:
    pod = DiscoveredPod(pod="a", sources=(SourceConfig(endpoint=ENDPOINT),), serving=Serving(role="prefill"))
    raw = msgspec.to_builtins(pod)
    raw["serving"]["colour"] = "blue"
    assert decode_pod(msgspec.msgpack.encode(raw)) == pod
    del raw["serving"]
    assert decode_pod(msgspec.msgpack.encode(raw)).serving == Serving()


def test_how_a_pod_serves_changes_nothing_about_how_it_is_followed() -> None:
    pod = DiscoveredPod(pod="a", sources=(SourceConfig(endpoint=ENDPOINT),), settings=PodConfig(model="m"))
    draining = pod.draining()
    assert draining.serving.is_draining
    assert pod.feeds_as(draining)
    check_pod(draining)


def annotated(**notes: str) -> DiscoveredPod:
    named = {f"kvatlas/{name.replace('_', '-')}": text for name, text in notes.items()}
    raw = kube_pod("a", "10.0.0.1", annotations=named)
    return as_discovered(msgspec.convert(raw, KubePod), KubernetesWatchConfig(name="k"))


def test_annotations_say_how_a_pod_of_kubernetes_serves() -> None:
    assert annotated().serving == Serving()
    found = annotated(
        serving_port="8000", role="prefill", adapters="x,,y", ranks="2", requests_max="64", draining="true"
    )
    assert found.serving == Serving(
        url="http://10.0.0.1:8000",
        role="prefill",
        adapters=("x", "y"),
        ranks=2,
        requests_max=64,
        is_draining=True,
    )
    assert annotated(ask_port="8000").serving.url == "http://10.0.0.1:8000"
    assert annotated(ask_port="8000", serving_port="none").serving.url is None


@pytest.mark.parametrize(
    ("name", "text"),
    [("role", "chef"), ("serving-port", "0"), ("requests-max", "many"), ("adapters", "a\nb")],
)
def test_annotations_that_cannot_be_meant_leave_the_pod_out(name: str, text: str) -> None:
    with pytest.raises(InputError, match="expected"):
        annotated(**{name.replace("-", "_"): text})
