"""A scheduler that is no part of kvatlas asks a gateway: by llm-d's gRPC call, and over HTTP.

    python examples/external_scheduler.py          (starts a Ray of its own; half a minute)

It prints

    picker: pod-a 4.0
    scheduler: pod-a, 64 of 77 tokens predicted
    receipt: completed, 64 predicted, 64 reused

`Picker` is what an endpoint picker of llm-d does: it sends a text and pod names, gets scores, and weighs
them with what else it knows. `Scheduler` lets kvatlas decide, which counts the load of each choice, and
tells how it ended. Neither has a tokenizer. In other languages generate the messages from
cluster/gateway/rpc/indexer.proto and gateway.proto.
"""

from __future__ import annotations

import http.client
import json
import logging
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc
import ray
import tokenizers

import kvatlas
from kvatlas.cluster.config.loading import load_config
from kvatlas.cluster.gateway.rpc.schemas import INDEXER
from kvatlas.cluster.launch import down
from kvatlas.ingest.simulator.server import SimulatedServer

CLUSTER = "scheduled"
MODEL = "some/model"
PODS = ("pod-a", "pod-b")
PROMPT = "You are a helpful assistant. Answer in one sentence: what is a KV cache for?\n"  # a token a byte


class Picker:
    """Picks a pod by scores, as llm-d's picker does."""

    def __init__(self, address: str) -> None:
        self._ask: Any = grpc.insecure_channel(address).unary_unary(
            "/indexer.v1.IndexerService/GetPodScores",
            request_serializer=INDEXER.message_class("GetPodScoresRequest").SerializeToString,
            response_deserializer=INDEXER.message_class("GetPodScoresResponse").FromString,
        )

    def pick(self, prompt: str, pods: tuple[str, ...]) -> tuple[str, float]:
        """The pod that holds most of the prompt. A picker of yours adds queues and the like."""
        request = INDEXER.message_class("GetPodScoresRequest")
        answer = self._ask(request(prompt=prompt, model_name=MODEL, pod_identifiers=pods), timeout=10)
        scores = {scored.pod: scored.score for scored in answer.scores}
        best = max(pods, key=lambda pod: scores.get(pod, 0.0))
        return best, scores.get(best, 0.0)


class Scheduler:
    """Has kvatlas choose, over HTTP."""

    def __init__(self, port: int) -> None:
        self._port = port

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        connection.request(method, path, None if body is None else json.dumps(body))
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
        connection.close()
        return answer

    def serve(self, prompt: str) -> None:
        choice = self.call("POST", "/v1/choose", {"model": MODEL, "prompt": prompt})
        predicted, tokens = choice["cached_tokens"], choice["prompt_tokens"]
        print(f"scheduler: {choice['pod']}, {predicted} of {tokens} tokens predicted")
        # Here the request goes to choice["url"]; a vLLM server says in `usage` what it has reused.
        request = choice["request_id"]
        self.call("POST", f"/v1/requests/{request}/completed", {"cached_tokens": 64, "output_tokens": 20})
        receipt = self.call("GET", f"/v1/receipts/{request}")
        reused = f"{receipt['predicted_cached_tokens']} predicted, {receipt['actual_cached_tokens']} reused"
        print(f"receipt: {receipt['outcome']}, {reused}")


def write_tokenizer(folder: str) -> str:
    """A tokenizer in which each byte is a token: nothing has to be downloaded."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({c: n for n, c in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(Path(folder) / "tokenizer.json"))
    return folder


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def entry_of(server: SimulatedServer) -> dict[str, Any]:
    publisher = server.listen()
    return {"pod": server.pod, "endpoint": publisher.endpoint, "replay_endpoint": publisher.replay_endpoint}


def run(servers: list[SimulatedServer], folder: str) -> None:
    config = load_config(
        name=CLUSTER,
        lifetime="owned",
        shards={"count": 2},
        discovery={"watches": [{"kind": "static", "pods": [entry_of(server) for server in servers]}]},
        tokenize={"models": {MODEL: write_tokenizer(folder)}},
        gateway={"replicas": 1, "port": free_port(), "grpc": {"listen": ["127.0.0.1:0"]}},
    )
    with kvatlas.start(config) as client:
        # pod-a computes the prompt and keeps its blocks, pod-b serves something else.
        servers[0].serve(client.encode(PROMPT, model=MODEL).token_ids.tolist(), 1)
        servers[1].serve(client.encode("something else " * 8, model=MODEL).token_ids.tolist(), 1)
        while len(client.pods()) < len(PODS) or not client.score(prompt=PROMPT, model=MODEL):
            time.sleep(0.05)  # events are on their way
        scheduler = Scheduler(config.gateway.port)
        (address,) = scheduler.call("GET", "/readyz")["grpc"]
        pod, score = Picker(address).pick(PROMPT, PODS)
        print(f"picker: {pod} {score:.1f}")
        scheduler.serve(PROMPT)
    down(CLUSTER)


def main() -> None:
    ray.init(address="local", log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    with (
        tempfile.TemporaryDirectory() as folder,
        SimulatedServer(PODS[0], MODEL) as first,
        SimulatedServer(PODS[1], MODEL) as second,
    ):
        run([first, second], folder)
    ray.shutdown()


if __name__ == "__main__":
    main()
