"""Choices in a cluster: several processes choose, know each other's loads, and what dies is forgotten."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
import ray

from kvatlas.actors.orders import NAMESPACE
from kvatlas.actors.subscriber.service import ServiceStatistics
from kvatlas.cluster import launch
from kvatlas.cluster.client import Client
from kvatlas.cluster.config.actors_config import ScorersConfig, ShardsConfig
from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.cluster.directory_settings import directory_settings
from kvatlas.index.choosing.serving import Serving
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.errors import InputError, NoWorkerError
from kvatlas.ingest.discovery.entries import PodEntry
from tests.cluster.living_fleet import MODEL, Fleet, fleet_of, living_process_of, process_of, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.usefixtures("shared_ray"),
    pytest.mark.timeout(300),
]

PODS = ("pod0", "pod1", "pod2")


class _Router:
    """A process that chooses."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def choose(self, prompt: list[int], request_id: str, reserve: bool = True) -> str:
        choice = self._client.choose(prompt, model=MODEL, request_id=request_id, reserve=reserve)
        return choice.pod

    def completed(self, request_id: str, cached_tokens: int | None = None) -> bool:
        return self._client.completed(request_id, cached_tokens=cached_tokens)

    def process(self) -> int:
        return os.getpid()


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with fleet_of(3) as fleet:
        fleet.serve(20)
        yield fleet


@pytest.fixture(scope="module")
def client(fleet: Fleet) -> Iterator[Client]:
    config = ClusterConfig(
        name="choosing",
        discovery=fleet.discovery,
        shards=ShardsConfig(count=2, table_bytes_max=64 << 20),
        scorers=ScorersConfig(count=1),
        choosing=ChoosingConfig(speculative_s=0.0, receipts_max=77),
    )
    with launch.start(config) as client:
        fleet.wait_agreed(client)
        yield client
        launch.down(config.name)


@pytest.fixture
def router(client: Client) -> Iterator[Any]:
    made: Any = ray.remote(_Router)
    actor = made.options(num_cpus=0).remote(client)
    yield actor
    ray.kill(actor)


def others(client: Client) -> int:
    """Requests on workers that this process knows of."""
    loads = client.chooser.loads
    told = sum(receipted(client).values())
    return told - int(loads.own()[3].sum())


def receipted(client: Client) -> dict[str, int]:
    """Requests of each pod, others' included, as a choice sees them; the choice reserves nothing."""
    choice = client.choose([1] * 8, model=MODEL, reserve=False)
    receipt = client.receipt(choice.request_id)
    return {candidate.pod: candidate.requests for candidate in receipt.candidates}


def test_a_request_goes_where_its_prompt_is(client: Client, fleet: Fleet) -> None:
    server = fleet.servers[1]
    prompt = [7] * 4 + list(range(2000, 4000))
    with fleet.lock:
        server.serve(prompt, 8)
    fleet.prompts.append(prompt)
    fleet.wait_agreed(client)
    choice = client.choose(prompt, model=MODEL, request_id="warm")
    assert (choice.pod, choice.truth, choice.is_reserved) == ("pod1", "EXACT", True)
    assert choice.cached_tokens == server.cached_tokens(prompt)
    assert client.prefill_done("warm")
    assert client.produced("warm", 5)
    assert client.completed("warm", cached_tokens=choice.cached_tokens, output_tokens=5)
    assert not client.completed("warm")
    receipt = client.receipt("warm")
    assert (receipt.actual_cached_tokens, receipt.predicted_cached_tokens) == (choice.cached_tokens,) * 2


def test_the_clusters_configuration_counts_in_every_process(client: Client) -> None:
    assert client.chooser.config.receipts_max == 77
    assert Client(client.cluster).chooser is client.chooser


def test_a_process_knows_what_another_has_reserved_until_it_has_ended(client: Client, router: Any) -> None:
    chosen = ray.get([router.choose.remote([5] * 64, f"{n}") for n in range(9)])
    assert sorted(chosen) == sorted(PODS * 3)  # no herd: each counts what came before
    wait_until(lambda: receipted(client) == dict.fromkeys(PODS, 3), 60, lambda: receipted(client))
    assert client.routing().sharing is not None
    ray.get([router.completed.remote(f"{n}") for n in range(9)])
    wait_until(lambda: others(client) == 0, 60)


def test_an_idle_worker_that_another_process_has_just_sent_to_is_not_idle(
    client: Client, router: Any
) -> None:
    first = client.choose([9] * 640, model=MODEL, request_id="first", pods=PODS[:1])
    assert first.pod == "pod0"

    def goes_elsewhere() -> bool:
        """Once it has heard of the first one, the load of a whole prompt keeps every choice away."""
        chosen = ray.get([router.choose.remote([n] * 64, "probe", reserve=False) for n in range(8)])
        return "pod0" not in chosen

    wait_until(goes_elsewhere, 60)
    assert client.failed("first", "a test")


def test_an_event_loop_chooses_too(client: Client) -> None:
    async def choose() -> str:
        choice = await client.choose_async([3] * 100, model=MODEL, request_id="looped")
        return choice.pod

    assert asyncio.run(choose()) in PODS
    assert client.completed("looped")


def test_a_router_that_is_killed_has_nothing_reserved_any_more(client: Client, router: Any) -> None:
    process: Any = ray.get(router.process.remote())
    ray.get(router.choose.remote([5] * 64, "lost"))
    wait_until(lambda: others(client) == 1, 60)
    wait_until(lambda: process in {one.process for one in client.status().routers}, 60)
    os.kill(process, signal.SIGKILL)
    wait_until(lambda: others(client) == 0, 60)
    wait_until(lambda: process not in {one.process for one in client.status().routers}, 60)


def test_loads_are_shared_on_while_the_directory_is_killed_and_comes_back(
    client: Client, router: Any
) -> None:
    ray.get(router.choose.remote([5] * 64, "before"))
    wait_until(lambda: others(client) == 1, 60)
    name = f"{client.cluster}/directory"
    process = living_process_of(name)
    os.kill(process, signal.SIGKILL)
    ray.get(router.choose.remote([5] * 64, "meanwhile"))
    wait_until(lambda: others(client) == 2, 60)
    wait_until(lambda: process_of(name) not in (0, process), 60)
    wait_until(lambda: len(client.status().routers) >= 2, 60)
    ray.get([router.completed.remote(name) for name in ("before", "meanwhile")])
    wait_until(lambda: others(client) == 0, 60)
    assert set(client.serving_pods()) == set(PODS)


def test_a_scorer_chooses_for_those_who_cannot(client: Client, fleet: Fleet) -> None:
    scorer, ids = client.scorer(0), np.array(fleet.prompts[0], np.uint32).tobytes()
    choice: Any = ray.get(scorer.choose.remote(ids, model=MODEL, request_id="by scorer"))
    assert choice.pod in PODS
    wait_until(lambda: others(client) == 1, 60)
    assert ray.get(scorer.completed.remote("by scorer"))
    receipt: Any = ray.get(scorer.receipt.remote("by scorer"))
    assert receipt.pod == choice.pod
    with pytest.raises(InputError):
        client.receipt("by scorer")  # another process's
    wait_until(lambda: others(client) == 0, 60)


def test_a_pod_that_only_serves_can_be_chosen_and_one_that_drains_is_not(client: Client) -> None:
    def add(*, drains: bool) -> None:
        serving = Serving(url="http://127.0.0.1:9", is_draining=drains)
        entry = PodEntry(pod="mute", model="mute/model", labels={"zone": "z"}, serving=serving)
        client.add_pod(entry.discovered("test"))

    with pytest.raises(NoWorkerError):
        client.choose([1] * 32, model="mute/model")
    add(drains=False)
    wait_until(lambda: "mute" in client.serving_pods(), 60)
    choice = client.choose([1] * 32, model="mute/model", request_id="blind", labels={"zone": "z"})
    assert (choice.pod, choice.url, choice.truth) == ("mute", "http://127.0.0.1:9", "BLIND")
    assert client.completed("blind")
    with pytest.raises(NoWorkerError):
        client.choose([1] * 32, model="mute/model", labels={"zone": "elsewhere"})
    (mute,) = (pod for pod in client.status().pods if pod.pod == "mute")
    assert (mute.subscriber, mute.serves) == ("", "http://127.0.0.1:9")
    add(drains=True)
    wait_until(lambda: client.serving_pods()["mute"].serving.is_draining, 60)
    with pytest.raises(NoWorkerError):
        client.choose([1] * 32, model="mute/model")
    assert client.remove_pod("mute")


def test_what_workers_have_reused_is_told_to_whoever_mirrors_them(client: Client, fleet: Fleet) -> None:
    def compared() -> tuple[int, int]:
        """Comparisons and wrong ones of all workers."""
        name = f"{client.cluster}/subscriber/0"
        told: Any = ray.get(ray.get_actor(name, namespace=NAMESPACE).statistics.remote())
        workers = msgspec.msgpack.decode(told, type=ServiceStatistics).mirror.workers
        return sum(one.predictions for one in workers), sum(one.predictions_wrong for one in workers)

    compared_before, wrong_before = compared()
    prompt = max(fleet.prompts, key=len)
    for wrong in (False, False, True):
        choice = client.choose(prompt, model=MODEL, request_id="reusing")
        assert choice.cached_tokens > 0
        assert client.completed("reusing", cached_tokens=0 if wrong else choice.cached_tokens)
    wait_until(lambda: compared() == (compared_before + 3, wrong_before + 1), 60, compared)


def test_without_sockets_between_actors_loads_are_not_shared() -> None:
    assert directory_settings(ClusterConfig(), "one").shares_loads
    assert not directory_settings(ClusterConfig(transport="ray"), "one").shares_loads
