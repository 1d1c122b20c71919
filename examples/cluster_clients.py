"""A cluster on Ray, asked from a driver, from an actor and from a Ray Serve deployment.

    python examples/cluster_clients.py          (starts a Ray of its own; half a minute)

It prints

    driver: {'pod-a': 6.0}
    actor: pod-a
    deployment: pod-a

A client is a name and some settings: it can be made anywhere, or sent. Where a shard lies on the same
node it reads the shard's memory and calls nobody.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import ray
from ray import serve

import kvatlas
from kvatlas.cluster.config.loading import load_config
from kvatlas.cluster.launch import down
from kvatlas.ingest.simulator.server import SimulatedServer

CLUSTER = "example"
MODEL = "some/model"
PROMPT = list(range(1000, 1100))  # 100 token ids: six full blocks of 16


class Router:
    """An actor that was sent a client, pickled: it finds the cluster again by itself."""

    def __init__(self, client: kvatlas.Client) -> None:
        self.client = client

    def route(self, prompt: list[int]) -> str:
        return best_pod(self.client.score(prompt, model=MODEL))


class Gateway:
    """A deployment that knows the cluster by name; its event loop waits for no other node."""

    def __init__(self, cluster: str) -> None:
        self.client = kvatlas.connect(cluster)

    async def __call__(self, prompt: list[int]) -> str:
        return best_pod(await self.client.score_async(prompt, model=MODEL))


def best_pod(scores: kvatlas.Scores) -> str:
    """The pod that can reuse most of the prompt. A router of yours weighs load as well."""
    return max(scores, key=lambda pod: scores[pod], default="nobody")


def ask(client: kvatlas.Client, prompt: list[int]) -> None:
    """The same question from three kinds of processes."""
    print("driver:", dict(client.score(prompt, model=MODEL)))

    router: Any = ray.remote(Router).remote(client)
    print("actor:", ray.get(router.route.remote(prompt)))

    deployment: Any = serve.deployment(Gateway)
    gateway: Any = serve.run(deployment.bind(CLUSTER), name="gateway", route_prefix=None)
    print("deployment:", gateway.remote(prompt).result())


def main() -> None:
    ray.init(address="local", log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    with SimulatedServer("pod-a", MODEL) as server:  # stands in for a real one
        publisher = server.listen()
        server.serve(PROMPT, 1)  # computes the prompt, keeps its blocks, announces them
        pod = {"pod": "pod-a", "endpoint": publisher.endpoint, "replay_endpoint": publisher.replay_endpoint}
        config = load_config(
            name=CLUSTER,
            lifetime="owned",  # would end with this process if nobody said so
            shards={"count": 2},
            discovery={"watches": [{"kind": "static", "pods": [pod]}]},
        )
        with kvatlas.start(config) as client:
            while not client.score(PROMPT, model=MODEL):
                time.sleep(0.05)  # its history is being asked for
            ask(client, [*PROMPT, 7, 8, 9])
        down(CLUSTER)
    ray.shutdown()


if __name__ == "__main__":
    main()
