"""Orders of a directory, and what a subscriber then listens to."""

from __future__ import annotations

import logging

import pytest

from kvatlas.actors.orders import PodOrders
from kvatlas.actors.subscriber.pod_sources import PodSources
from kvatlas.index.errors import ConfigError
from kvatlas.ingest.config import PodConfig
from kvatlas.ingest.discovery.pods import DiscoveredPod, encode_pod
from kvatlas.ingest.sockets.source_config import SourceConfig


class Noting:
    """Stands where mirrors and sockets stand, and notes in which order what is asked of them."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.taken: set[str] = set()
        """Endpoints that cannot be used."""

    def set_pod(self, pod: str, config: PodConfig | None) -> None:
        if config is not None:
            self.notes.append(f"set {pod} {config.model}")

    def set_block_size(self, model: str, tokens: int) -> None:
        self.notes.append(f"size {model} {tokens}")

    def remove_pod(self, pod: str) -> None:
        self.notes.append(f"forget {pod}")

    def add(self, source: SourceConfig | str) -> str:
        assert isinstance(source, SourceConfig)
        if source.endpoint in self.taken:
            raise ConfigError(f"{source.endpoint}: address in use")
        self.notes.append(f"open {source.endpoint}")
        return source.endpoint.replace("*", "1234")

    def remove(self, endpoint: str) -> None:
        self.notes.append(f"close {endpoint}")

    def said(self) -> list[str]:
        notes, self.notes = self.notes, []
        return notes


def pod(name: str, *endpoints: str, bind: bool = False, **settings: str) -> PodOrders:
    sources = tuple(
        SourceConfig(endpoint=endpoint, bind=bind, pod=None if bind else name) for endpoint in endpoints
    )
    found = DiscoveredPod(pod=name, sources=sources, settings=PodConfig(**settings))  # type: ignore[arg-type]
    return PodOrders(pod=name, source=encode_pod(found))


@pytest.fixture
def noting() -> Noting:
    return Noting()


@pytest.fixture
def sources(noting: Noting) -> PodSources:
    return PodSources(noting, noting)


def test_pods_that_come_are_known_before_they_are_heard(sources: PodSources, noting: Noting) -> None:
    sources.obey([pod("a", "tcp://h:1", "tcp://h:2", model="m")])
    assert noting.said() == ["set a m", "open tcp://h:1", "open tcp://h:2"]
    assert sources.pods == {"a"}


def test_orders_that_say_the_same_do_nothing(sources: PodSources, noting: Noting) -> None:
    orders = [pod("a", "tcp://h:1"), pod("b", "tcp://h:2")]
    sources.obey(orders)
    noting.said()
    sources.obey(reversed(orders))
    assert noting.said() == []


def test_pod_that_leaves_is_closed_then_forgotten(sources: PodSources, noting: Noting) -> None:
    sources.obey([pod("a", "tcp://h:1"), pod("b", "tcp://h:2")])
    noting.said()
    sources.obey([pod("b", "tcp://h:2")])
    assert noting.said() == ["close tcp://h:1", "forget a"]


def test_endpoint_that_moves_to_another_pod_is_closed_before_it_is_opened(
    sources: PodSources, noting: Noting
) -> None:
    sources.obey([pod("a", "tcp://h:1")])
    noting.said()
    sources.obey([pod("b", "tcp://h:1")])
    assert noting.said() == ["close tcp://h:1", "forget a", "set b None", "open tcp://h:1"]


def test_pod_with_another_address_keeps_its_content(sources: PodSources, noting: Noting) -> None:
    sources.obey([pod("a", "tcp://h:1")])
    noting.said()
    sources.obey([pod("a", "tcp://h:9")])
    assert noting.said() == ["close tcp://h:1", "set a None", "open tcp://h:9"]


def test_socket_that_listens_for_many_pods_is_opened_once_and_closed_with_the_last(
    sources: PodSources, noting: Noting
) -> None:
    both = [pod("a", "tcp://0.0.0.0:5557", bind=True), pod("b", "tcp://0.0.0.0:5557", bind=True)]
    sources.obey(both)
    sources.obey(both[:1])
    assert noting.said() == ["set a None", "set b None", "open tcp://0.0.0.0:5557", "forget b"]
    sources.obey([])
    assert noting.said() == ["close tcp://0.0.0.0:5557", "forget a"]


def test_source_that_cannot_be_used_is_tried_again_and_logged_once(
    sources: PodSources, noting: Noting, caplog: pytest.LogCaptureFixture
) -> None:
    noting.taken.add("tcp://h:1")
    orders = [pod("a", "tcp://h:1", "tcp://h:2")]
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            sources.obey(orders)
    assert sources.counts["refused_sources"] == 3
    assert len(caplog.records) == 1
    noting.taken.clear()
    sources.obey(orders)
    assert noting.said() == ["set a None", "open tcp://h:2", "open tcp://h:1"]


@pytest.mark.parametrize("bad", [b"", b"\xc1", b"\x80", encode_pod(DiscoveredPod(pod="a"))])
def test_pod_that_nobody_could_follow_is_counted_once_and_the_others_are_followed(
    sources: PodSources, noting: Noting, bad: bytes
) -> None:
    orders = [PodOrders(pod="a", source=bad), pod("b", "tcp://h:2")]
    sources.obey(orders)
    sources.obey([*orders, pod("c", "tcp://h:3")])
    assert sources.counts["refused_pods"] == 1
    assert sources.pods == {"b", "c"}


def test_block_size_that_discovery_knows_is_told(sources: PodSources, noting: Noting) -> None:
    found = DiscoveredPod(
        pod="a",
        sources=(SourceConfig(endpoint="tcp://h:1"),),
        block_size_tokens=32,
        settings=PodConfig(model="m"),
    )
    sources.obey([PodOrders(pod="a", source=encode_pod(found))])
    assert noting.said() == ["set a m", "size m 32", "open tcp://h:1"]
