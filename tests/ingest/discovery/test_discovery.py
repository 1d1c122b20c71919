"""All watches together, with their threads, over real sockets and files."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kvatlas.index.errors import ConfigError, InputError
from kvatlas.ingest.atlas import Atlas
from kvatlas.ingest.discovery.config import (
    DiscoveryConfig,
    DiscoveryLimits,
    FileWatchConfig,
    HttpWatchConfig,
    KubernetesWatchConfig,
    StaticWatchConfig,
)
from kvatlas.ingest.discovery.discovery import Discovery
from kvatlas.ingest.discovery.entries import PodEntry
from kvatlas.ingest.discovery.pods import DiscoveredPod
from kvatlas.ingest.discovery.registration.server import RegistrationServer
from kvatlas.ingest.discovery.source_query import ToldSource
from kvatlas.ingest.simulator.server import SimulatedServer
from kvatlas.ingest.sockets.subscriber import Subscriber
from tests.ingest.discovery.kubernetes_api import KubernetesApi, pod
from tests.ingest.discovery.test_source_query import says, server
from tests.ingest.discovery.told_pods import found


def entry(name: str, **fields: Any) -> PodEntry:
    return PodEntry(pod=name, **(fields or {"endpoint": f"tcp://{name}.example:5557"}))


@contextmanager
def discovering(*watches: Any, **more: Any) -> Iterator[Discovery]:
    limits = more.pop("limits", DiscoveryLimits(grace_s=0.05))
    discovery = Discovery(DiscoveryConfig(watches=watches, limits=limits), **more).start()
    try:
        yield discovery
    finally:
        discovery.stop()


def wait_for(discovery: Discovery, condition: Callable[[], bool]) -> bool:
    """Whether it came true; looked at whenever what is followed has changed."""
    for _ in range(600):
        version = discovery.version
        if condition():
            return True
        discovery.wait(version, 0.1)
    return condition()


@pytest.mark.slow
def test_pods_of_every_kind_of_watch_are_followed_together(tmp_path: Path) -> None:
    (tmp_path / "pods.yaml").write_text("- {pod: f, endpoint: 'tcp://f:5557'}\n", encoding="utf-8")
    told = {"0": {"endpoint": "tcp://*:5557"}}
    with KubernetesApi() as api, server(says(told)) as url:
        api.apply(pod("k", "10.0.0.1"))
        kubeconfig = api.write_kubeconfig(tmp_path / "kubeconfig")
        with discovering(
            StaticWatchConfig(pods=(entry("s"), entry("u", url=url))),
            FileWatchConfig(path=str(tmp_path / "pods.yaml")),
            HttpWatchConfig(port=0),
            KubernetesWatchConfig(kubeconfig=kubeconfig),
        ) as discovery:
            discovery.registry.register(found("r"))
            assert wait_for(discovery, lambda: set(discovery.pods()) == {"s", "u", "f", "k", "r"})
            assert discovery.pods()["u"].sources[0].endpoint == "tcp://127.0.0.1:5557"
            by = {state.pod: state.found_by for state in discovery.states()}
            assert by == {"s": "static", "u": "static", "f": "file", "k": "kubernetes", "r": "tests"}
            assert discovery.statistics().states == {"following": 5}
            names = [watch.name for watch in discovery.statistics().watches]
            assert names == ["registered", "static", "file", "http", "kubernetes"]
            discovery.registry.withdraw("r")
            api.delete("k")
            assert wait_for(discovery, lambda: set(discovery.pods()) == {"s", "u", "f"})


def test_whoever_is_told_of_changes_hears_of_each_and_may_fail() -> None:
    told = threading.Semaphore(0)

    def on_change() -> None:
        told.release()
        raise RuntimeError("of others")

    with discovering(StaticWatchConfig(pods=(entry("s"),)), on_change=on_change) as discovery:
        assert told.acquire(timeout=60)
        discovery.registry.register(found("r"))
        assert told.acquire(timeout=60)
        assert set(discovery.pods()) == {"s", "r"}


def test_a_registration_ends_by_itself_and_then_its_grace() -> None:
    with discovering() as discovery:
        discovery.registry.register(found("r"), 0.05)
        assert wait_for(discovery, lambda: not discovery.pods())
        counts = discovery.statistics().watches[0].counts
        assert counts == {"registered": 1, "expired": 1}


def test_a_server_that_moves_is_followed_where_it_says_and_one_that_is_silent_is_shown() -> None:
    answers: dict[str, str] = {"http://h:1": "tcp://h:1"}

    def ask(url: str, _timeout_s: float, _bytes_max: int) -> tuple[ToldSource, ...]:
        if url not in answers:
            raise InputError(f"{url}: nobody there")
        return (ToldSource(0, answers[url], None, None),)

    limits = DiscoveryLimits(ask_every_s=0.02, ask_retry_s_min=0.02, ask_retry_s_max=0.02)
    pods = (entry("u", url="http://h:1"), entry("silent", url="http://h:2"))
    with discovering(StaticWatchConfig(pods=pods), ask=ask, limits=limits) as discovery:
        assert wait_for(discovery, lambda: "u" in discovery.pods())
        answers["http://h:1"] = "tcp://h:9"
        assert wait_for(discovery, lambda: discovery.pods()["u"].sources[0].endpoint == "tcp://h:9")
        assert wait_for(discovery, lambda: discovery.statistics().counts.get("asks_failed", 0) > 1)
        (silent,) = (state for state in discovery.states() if state.pod == "silent")
        assert (silent.state, silent.why) == ("asking", "http://h:2: nobody there")


def test_a_pod_whose_url_changed_is_not_followed_where_it_was() -> None:
    asked: list[str] = []

    def ask(url: str, _timeout_s: float, _bytes_max: int) -> tuple[ToldSource, ...]:
        asked.append(url)
        return (ToldSource(0, url.replace("http", "tcp"), None, None),)

    with discovering(ask=ask, limits=DiscoveryLimits(grace_s=1000)) as discovery:
        discovery.registry.register(DiscoveredPod(pod="a", url="http://h:1"))
        assert wait_for(discovery, lambda: "a" in discovery.pods())
        discovery.registry.register(DiscoveredPod(pod="a", url="http://h:2"))
        discovery.registry.register(found("b", "tcp://h:1"))  # who has its address now
        assert wait_for(discovery, lambda: "b" in discovery.pods())
        assert wait_for(
            discovery,
            lambda: [one.sources[0].endpoint for one in discovery.pods().values()].count("tcp://h:2") == 1,
        )


def test_a_watch_that_cannot_start_stops_all_and_says_why() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        watches = (StaticWatchConfig(pods=(entry("s"),)), HttpWatchConfig(port=taken.getsockname()[1]))
        discovery = Discovery(DiscoveryConfig(watches=watches))
        with pytest.raises(ConfigError, match="expected to listen"):
            discovery.start()
        assert not discovery._thread.is_alive()  # pyright: ignore[reportPrivateUsage]


def test_two_registration_servers_share_one_registry() -> None:
    with discovering(HttpWatchConfig(port=0), HttpWatchConfig(name="other", port=0)) as discovery:
        servers = [watch for watch in discovery.watches if isinstance(watch, RegistrationServer)]
        assert [one.registry for one in servers] == [discovery.registry] * 2


@pytest.mark.slow
def test_ten_thousand_pods_are_followed_shown_and_left() -> None:
    names = [f"p{number}" for number in range(10_000)]
    with discovering(StaticWatchConfig(pods=tuple(entry(name) for name in names))) as discovery:
        assert wait_for(discovery, lambda: len(discovery.pods()) == 10_000)
        assert len(discovery.states()) == 10_000
        assert discovery.statistics().states == {"following": 10_000}


def test_what_discovery_finds_is_heard_under_its_id_whatever_its_topic_says() -> None:
    with SimulatedServer("another", "some/model") as simulated:
        publisher = simulated.listen()
        fields = {"endpoint": publisher.endpoint, "replay_endpoint": publisher.replay_endpoint}
        with discovering(StaticWatchConfig(pods=(entry("sim", **fields),))) as discovery:
            assert wait_for(discovery, lambda: "sim" in discovery.pods())
            sources = discovery.pods()["sim"].sources
        atlas = Atlas()
        with Subscriber(atlas, sources) as subscriber:
            assert subscriber.wait_until(lambda seen: seen.connections == 1, 10)
            simulated.serve(list(range(64)))
            assert subscriber.wait_until(lambda seen: seen.batches + seen.replay.replies > 0, 10)
            assert {worker.pod for worker in atlas.statistics().workers} == {"sim"}


@pytest.mark.slow
def test_without_the_extra_kubernetes_is_a_configuration_error_and_the_rest_works(tmp_path: Path) -> None:
    (tmp_path / "kubernetes.py").write_text("raise ImportError('not installed')\n", encoding="utf-8")
    script = (
        "from kvatlas.index.errors import ConfigError\n"
        "from kvatlas.ingest.discovery.config import *\n"
        "from kvatlas.ingest.discovery.discovery import Discovery\n"
        "Discovery().start().stop()\n"
        "try:\n    Discovery(DiscoveryConfig(watches=(KubernetesWatchConfig(),)))\n"
        "except ConfigError as error:\n    print(error)\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "pip install 'kvatlas[kubernetes]'" in finished.stdout
