"""Proxies of a cluster: begun with it, started again by Ray, ended with it; no stream goes through Ray."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from kvatlas.cluster import launch
from kvatlas.cluster.client import Client
from kvatlas.cluster.config.actors_config import ShardsConfig
from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.cluster.config.proxy_config import ProxyConfig
from kvatlas.cluster.proxy import placing
from kvatlas.cluster.proxy.simulator.running_pods import RunningPods
from kvatlas.ingest.discovery.config import DiscoveryConfig, StaticWatchConfig
from tests.cluster.living_fleet import wait_until
from tests.ports import free_ports

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.usefixtures("shared_ray"),
    pytest.mark.timeout(300),
]

MODEL = "proxied/model"
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
PROMPT = list(range(200))


@pytest.fixture(scope="module")
def pods() -> Iterator[RunningPods]:
    with RunningPods(2, MODEL) as pods:
        yield pods


@pytest.fixture(scope="module")
def config(pods: RunningPods) -> ClusterConfig:
    (port,) = free_ports(1)
    return ClusterConfig(
        name="proxied",
        shards=ShardsConfig(count=1, table_bytes_max=8 << 20),
        discovery=DiscoveryConfig(watches=(StaticWatchConfig(pods=pods.entries),)),
        proxy=ProxyConfig(count=1, host="127.0.0.1", port=port),
    )


@pytest.fixture(scope="module")
def client(config: ClusterConfig) -> Iterator[Client]:
    with launch.start(config) as client:
        wait_until(lambda: len(client.serving_pods()) == 2, 60)
        yield client


def complete(config: ClusterConfig, prompt: list[int]) -> tuple[Any, Any]:
    body = json.dumps({"model": MODEL, "prompt": prompt, "max_tokens": 2}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{config.proxy.port}/v1/completions", body)
    with _OPENER.open(request, timeout=60) as answer:
        return answer.headers, json.loads(answer.read())


def answers(config: ClusterConfig) -> bool:
    try:
        complete(config, PROMPT)
    except OSError:
        return False
    return True


def actor(config: ClusterConfig) -> Any:
    return ray.get_actor(f"{config.name}/proxy/0", namespace=placing.NAMESPACE)


def test_the_proxy_of_a_cluster_sends_a_prompt_where_it_is_held(
    client: Client, config: ClusterConfig
) -> None:
    wait_until(lambda: answers(config), 60)

    def is_foretold() -> bool:
        headers, body = complete(config, [*PROMPT, 7])
        assert body["pod"] == headers["x-kvatlas-pod"]
        return int(headers["x-kvatlas-predicted-cached-tokens"]) > 0

    wait_until(is_foretold, 60)


def test_a_proxy_that_dies_is_started_again_and_finds_the_cluster(
    client: Client, config: ClusterConfig
) -> None:
    process: Any = ray.get(actor(config).ping.remote())
    os.kill(process, signal.SIGKILL)
    wait_until(lambda: answers(config), 60)
    assert ray.get(actor(config).ping.remote()) != process
    headers, _ = complete(config, [*PROMPT, 8])
    assert int(headers["x-kvatlas-predicted-cached-tokens"]) > 0


def test_a_proxy_ends_with_its_cluster(client: Client, config: ClusterConfig) -> None:
    client.close()
    launch.down(config.name)
    assert not answers(config)
    with pytest.raises(ValueError, match="proxy"):
        actor(config)
