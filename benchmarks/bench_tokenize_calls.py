"""What it adds to have a chat's next turn tokenized elsewhere: by the cluster's pool, by a service over gRPC.

Beside it, as the peer, the same turn in this process; each has a memo that holds the turns before it. A Ray
with one shard and one tokenizer; a service in a process of its own on a Unix socket. Answers are compared.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from bench_tokenize_turns import CALLS, Rig
from chats import tokenizer_folder
from grpc_health.v1 import health_pb2, health_pb2_grpc
from live_cluster import empty_call, local_ray, wait_until
from plain_tokenizing import beside
from publishers import process, seconds_until
from results import Result, arguments, show, timed
from timing import alternate, over
from workload import BLOCK_TOKENS

from kvatlas import Chat
from kvatlas.cluster import launch
from kvatlas.cluster.client import Client
from kvatlas.cluster.config.actors_config import ShardsConfig, TokenizersConfig
from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.index.scores import Scores
from kvatlas.ingest.discovery.config import DiscoveryConfig, StaticWatchConfig
from kvatlas.ingest.discovery.entries import PodEntry
from kvatlas.ingest.simulator.server import SimulatedServer
from kvatlas.tokenize.config import SidecarConfig, TokenizeConfig
from kvatlas.tokenize.service.config import ServiceConfig
from kvatlas.tokenize.service.serving.server import TokenizationServer
from kvatlas.tokenize.service.sidecar import SidecarSource
from kvatlas.tokenize.tokenizers import Tokenizers

NAME, MODEL = "bench-tokenize", "qwen3"
PODS, CHATS = 4, 16
Messages = list[dict[str, Any]]


def measure(rig: Rig, row: str, what: str, there: Callable[[Messages], Any], rounds: int) -> list[Result]:
    """Ids of a new question there, beside here."""
    for messages in rig.asked:
        there(messages)
    turns = (turn.messages for turn in rig.chats.questions())
    times = beside({"there": there, "here": rig.ids}, turns, rounds=rounds, calls=CALLS)
    return [timed(row, f"{what}: messages to ids, beside in this process", times["there"], times["here"])]


# The pool.


@contextmanager
def fleet(rig: Rig) -> Iterator[tuple[PodEntry, ...]]:
    """Servers with sockets, each of which has served a quarter of the chats."""
    servers = [
        SimulatedServer(f"pod-{i}", MODEL, block_size=BLOCK_TOKENS, blocks=1 << 14) for i in range(PODS)
    ]
    try:
        entries = []
        for i, server in enumerate(servers):
            publisher = server.listen()
            for messages in rig.asked[i::PODS]:
                server.serve(rig.ids(messages).tolist(), 1)
            entries.append(
                PodEntry(
                    pod=server.pod,
                    endpoint=publisher.endpoint,
                    replay_endpoint=publisher.replay_endpoint,
                    model=MODEL,
                )
            )
        yield tuple(entries)
    finally:
        for server in servers:
            server.close()


def bench_pool(rig: Rig, folder: Path, rounds: int) -> list[Result]:
    with local_ray(), fleet(rig) as entries:
        config = ClusterConfig(
            name=NAME,
            lifetime="owned",
            shards=ShardsConfig(count=1, table_bytes_max=64 << 20),
            tokenizers=TokenizersConfig(count_min=1, count_max=1),
            tokenize=TokenizeConfig(models={MODEL: str(folder)}, order=("models",)),
            discovery=DiscoveryConfig(watches=(StaticWatchConfig(pods=entries),)),
        )
        try:
            with launch.start(config) as client:
                wait_until(lambda: is_filled(rig, client), "the cluster to hold the chats")
                return [
                    *measure(
                        rig,
                        "ask/pool/ids",
                        "the cluster's pool",
                        lambda messages: client.encode_chat(messages, model=MODEL).token_ids,
                        rounds,
                    ),
                    pool_scores(rig, client, rounds),
                    empty_call("ask/pool"),
                ]
        finally:
            launch.down(NAME)


def is_filled(rig: Rig, client: Client) -> bool:
    """Whether one of the pods has each chat, and a tokenizer is up."""
    return all(tokenizer.is_up for tokenizer in client.status().tokenizers) and all(
        max(client.score(rig.ids(messages), model=MODEL).values(), default=0) > 300 for messages in rig.asked
    )


def pool_scores(rig: Rig, client: Client, rounds: int) -> Result:
    def compared(scores: Scores) -> dict[str, float]:
        assert scores.is_whole
        return dict(scores)

    turns = (turn.messages for turn in rig.chats.questions())
    times = beside(
        {
            "there": lambda messages: compared(client.score(model=MODEL, messages=messages)),
            "here": lambda messages: compared(client.score(rig.ids(messages), model=MODEL)),
        },
        turns,
        rounds=rounds,
        calls=CALLS,
    )
    what = "the cluster's pool: messages to scores, beside with ids made in this process"
    return timed("ask/pool/score", what, times["there"], times["here"])


# The service.


def serve(folder: str, address: str) -> None:
    """In a process of its own, until it is killed."""
    tokenizers = Tokenizers(TokenizeConfig(models={MODEL: folder}, order=("models",)))
    with TokenizationServer(tokenizers, ServiceConfig(listen=(address,))) as server:
        print("ready", flush=True)
        server.wait()


def bench_service(rig: Rig, folder: Path, rounds: int) -> list[Result]:
    with tempfile.TemporaryDirectory() as sockets:
        address = f"unix:{sockets}/service"
        with process([__file__, "--serve", str(folder), address]) as service:
            seconds_until("ready", service, 0.0)
            config = SidecarConfig(address=address, timeout_s=30.0)
            tokenizer = SidecarSource(config).find(MODEL)
            assert tokenizer is not None

            def there(messages: Messages) -> Any:
                return tokenizer.encode_chat(Chat(messages=messages)).token_ids

            results = measure(rig, "ask/service/ids", "a service over gRPC", there, rounds)
            tokenizer.close()
            return [*results, empty_grpc_call(address)]


def empty_grpc_call(address: str) -> Result:
    with grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        call = over(lambda _: stub.Check(health_pb2.HealthCheckRequest()), [None], sample_s=0.02)
        timing = alternate({"call": call}, rounds=21)["call"]
    return timed("ask/service/empty call", "beside it, a gRPC call that asks for health", timing)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--serve", nargs=2, metavar=("FOLDER", "ADDRESS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(*args.serve)
        return
    folder = tokenizer_folder(MODEL)
    results: list[Result] = []
    if folder is not None:
        rounds = 5 if args.quick else 31
        rig = Rig(folder, PODS if args.quick else CHATS)
        list(map(rig.ids, rig.asked))
        results += bench_service(rig, folder, rounds)
        results += bench_pool(rig, folder, rounds)
    show(results, args.json)


if __name__ == "__main__":
    main()
