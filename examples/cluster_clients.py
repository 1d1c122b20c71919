"""A cluster on Ray, asked from a driver, from an actor and from a Ray Serve deployment.

python examples/cluster_clients.py          (brings its own local Ray; takes half a minute)
"""

from __future__ import annotations

import logging
import time
from typing import Any

import ray
from ray import serve

import kvatlas
from kvatlas.ingest.simulator.server import SimulatedServer

MODEL = "some/model"
PROMPT = list(range(1000, 1100))  # 100 token ids: six full blocks of 16


def best_pod(client: kvatlas.Client, prompt: list[int]) -> str:
    scores = client.score(prompt, model=MODEL)
    return max(scores, key=lambda pod: scores[pod], default="nobody")


class Router:
    """An actor with a client: it was pickled on its way here, and found the cluster again."""

    def __init__(self, client: kvatlas.Client) -> None:
        self.client = client

    def route(self, prompt: list[int]) -> str:
        return best_pod(self.client, prompt)


class Gateway:
    """A deployment with a client: on the shards' node it reads their memory, with no call at all."""

    def __init__(self, cluster: str) -> None:
        self.client = kvatlas.connect(cluster)

    async def __call__(self, prompt: list[int]) -> str:
        scores = await self.client.score_async(prompt, model=MODEL)
        return max(scores, key=lambda pod: scores[pod], default="nobody")


def main() -> None:
    ray.init(address="local", log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    with SimulatedServer("pod-a", MODEL) as server:  # stands in for a real one
        publisher = server.listen()
        pod = {"pod": "pod-a", "endpoint": publisher.endpoint, "replay_endpoint": publisher.replay_endpoint}
        config = kvatlas.load_config(
            name="example",
            lifetime="owned",  # ends with this process
            shards__count=2,
            discovery__watches=[{"kind": "static", "pods": [pod]}],
        )
        server.serve(PROMPT, 1)  # computes the prompt, keeps its blocks, announces them
        client = kvatlas.start(config)
        while not any(worker.state == "EXACT" for worker in client.pods()):
            time.sleep(0.05)

        question = [*PROMPT, 7, 8, 9]
        print("driver:", dict(client.score(question, model=MODEL)))
        router: Any = ray.remote(Router).remote(client)
        print("actor:", ray.get(router.route.remote(question)))
        deployment: Any = serve.deployment(Gateway)
        gateway: Any = serve.run(deployment.bind("example"), name="gateway", route_prefix=None)
        print("deployment:", gateway.remote(question).result())
    ray.shutdown()


if __name__ == "__main__":
    main()
