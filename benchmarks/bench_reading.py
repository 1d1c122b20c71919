"""What a read of a cluster costs: beside an embedded atlas, and beside an empty Ray call.

A local Ray with four shards and one scorer follows simulated servers; an embedded atlas hears the same
servers. All answers are compared before anything is timed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import ray
from results import Result, arguments, show, timed
from timing import Contender, alternate, over

from kvatlas import Atlas, AtlasConfig, Subscriber
from kvatlas.actors.reading.settings import ReaderSettings
from kvatlas.cluster.client import Client
from kvatlas.cluster.config.actors_config import ScorersConfig, ShardsConfig
from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.cluster.launch import down, start
from kvatlas.index.scores import Scores
from kvatlas.ingest.discovery.config import DiscoveryConfig
from kvatlas.ingest.discovery.pods import DiscoveredPod
from kvatlas.ingest.simulator.server import SimulatedServer
from kvatlas.ingest.sockets.source_config import SourceConfig

NAME, MODEL, SEED = "bench-reading", "m", "bench"
PODS, PROMPTS, TOKENS = 16, 64, 8192
MANY = 256
WAIT_S = 60.0
"""Prompts in one call of `score_many`."""
Tokens = npt.NDArray[np.uint32]


def prompts() -> list[Tokens]:
    """Half of each is a system prompt that all share."""
    random = np.random.default_rng(7)
    head = random.integers(0, 100_000, TOKENS // 2, dtype=np.uint32)
    tails = [random.integers(0, 100_000, TOKENS // 2, dtype=np.uint32) for _ in range(PROMPTS)]
    return [np.concatenate([head, tail]) for tail in tails]


@contextmanager
def fleet(asked: list[Tokens]) -> Iterator[list[tuple[SimulatedServer, SourceConfig]]]:
    """Servers with sockets, that have served the prompts in turn."""
    servers = []
    for i in range(PODS):
        server = SimulatedServer(f"pod-{i}", MODEL, blocks=1 << 14)
        publisher = server.listen()
        source = SourceConfig(
            endpoint=publisher.endpoint, replay_endpoint=publisher.replay_endpoint, pod=server.pod
        )
        servers.append((server, source))
    for i, prompt in enumerate(asked):
        for server, _ in servers[i % PODS :: 4]:
            server.serve(prompt.tolist(), 0)
    try:
        yield servers
    finally:
        for server, _ in servers:
            server.close()


def wait(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"not in {WAIT_S} s: {what}")
        time.sleep(0.05)


def same(one: Scores, other: Scores) -> bool:
    return dict(one) == dict(other) and one.is_whole


def reads(atlas: Atlas, client: Client, asking: Client, asked: list[Tokens], rounds: int) -> list[Result]:
    """One prompt, in this process."""
    times = alternate(
        {
            "atlas": over(lambda ids: atlas.score(ids, model=MODEL), asked),
            "attached": over(lambda ids: client.score(ids, model=MODEL), asked),
            "asked": over(lambda ids: asking.score(ids, model=MODEL), asked),
        },
        rounds=rounds,
    )
    return [
        timed(
            "read/attached/8192",
            "client.score, attached, beside Atlas.score",
            times["attached"],
            times["atlas"],
        ),
        timed(
            "read/asked/8192",
            "client.score, shards asked by sockets, beside attached",
            times["asked"],
            times["attached"],
        ),
    ]


def calls(scorer: Any, asked: list[Tokens], rounds: int) -> list[Result]:
    """One prompt through a scorer, beside a call that does nothing with the same argument."""
    ids = [prompt.tobytes() for prompt in asked]
    times = alternate(
        {
            "empty": over(lambda one: ray.get(scorer.ping.remote(one, model=MODEL)), ids, sample_s=0.02),
            "score": over(lambda one: ray.get(scorer.score.remote(one, model=MODEL)), ids, sample_s=0.02),
        },
        rounds=rounds,
    )
    added = (times["score"].median - times["empty"].median) * 1e6
    return [
        timed(
            "read/scorer/8192", "scorer.score.remote, beside an empty call", times["score"], times["empty"]
        ),
        Result(row="read/scorer/added", what="what it adds to it", unit="us", median=added, best=added),
    ]


def many(scorer: Any, client: Client, asked: list[Tokens], rounds: int) -> list[Result]:
    """Many prompts of 512 blocks in one call: one buffer, with offsets."""
    flat = np.concatenate([asked[i % len(asked)] for i in range(MANY)])
    offsets = (np.arange(MANY + 1) * TOKENS).tolist()
    stored = ray.put(flat)

    def one_call(kind: str) -> Contender:
        def run(_: object) -> object:
            if kind == "here":
                return client.score_many(flat, model=MODEL, offsets=offsets)
            argument = stored if kind == "stored" else flat
            return ray.get(scorer.score_many.remote(argument, model=MODEL, offsets=offsets))

        return Contender(lambda: None, run, MANY)

    times = alternate({kind: one_call(kind) for kind in ("here", "sent", "stored")}, rounds=rounds)
    named = {
        "here": "client.score_many in this process",
        "sent": "through one scorer, a buffer sent with each call",
        "stored": "through one scorer, the buffer in Ray's store already",
    }
    return [
        Result(
            row=f"read/many/{kind}",
            what=f"{MANY} prompts: {what}",
            unit="prompts/s",
            median=1 / times[kind].median,
            best=1 / times[kind].best,
        )
        for kind, what in named.items()
    ]


def waiting_together(asking: Client, asked: list[Tokens]) -> list[Result]:
    """Prompts a second by an event loop with 64 reads under way, where shards are asked."""
    n = 2048

    async def one(lane: int) -> None:
        for i in range(n // 64):
            await asking.score_async(asked[(lane + i) % len(asked)], model=MODEL)

    async def all_of() -> None:
        await asyncio.gather(*(one(lane) for lane in range(64)))

    begin = time.perf_counter()
    asyncio.run(all_of())
    rate = n / (time.perf_counter() - begin)
    fetches = asking.reading().counts
    print(f"asked together: {fetches['fetched_requests'] / fetches['fetches']:.1f} requests a message")
    return [
        Result(
            row="read/asked/together",
            what="64 reads at once, asked",
            unit="prompts/s",
            median=rate,
            best=rate,
        )
    ]


def main() -> None:
    args = arguments(__doc__).parse_args()
    rounds = 7 if args.quick else 41
    asked = prompts()
    config = ClusterConfig(
        name=NAME,
        lifetime="owned",
        shards=ShardsConfig(count=4, table_bytes_max=64 << 20),
        scorers=ScorersConfig(count=1),
        discovery=DiscoveryConfig(),
    )
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    try:
        with fleet(asked) as servers, start(config) as client:
            for server, source in servers:
                client.add_pod(DiscoveredPod(pod=server.pod, sources=(source,)))
            atlas = Atlas(AtlasConfig(hash_seed=SEED, shards=4))
            sources = tuple(source for _, source in servers)
            with Subscriber(atlas, sources):
                measure(args, atlas, client, asked, rounds)
        down(NAME)
    finally:
        ray.shutdown()


def measure(args: Any, atlas: Atlas, client: Client, asked: list[Tokens], rounds: int) -> None:
    asking = Client(NAME, msgspec.structs.replace(ReaderSettings(), attaches=False))
    scorer = client.scorer()
    print("Beside it, as the peer: what each line says.\n")
    for prompt in asked:

        def agree(prompt: Tokens = prompt) -> bool:
            sent: Any = ray.get(scorer.score.remote(prompt.tobytes(), model=MODEL))
            return len(atlas.score(prompt, model=MODEL)) > 0 and all(
                same(found, atlas.score(prompt, model=MODEL))
                for found in (
                    client.score(prompt, model=MODEL),
                    asking.score(prompt, model=MODEL),
                    sent,
                )
            )

        wait(agree, "the cluster and the embedded atlas agree")
    results = [
        *reads(atlas, client, asking, asked, rounds),
        *calls(scorer, asked, rounds),
        *many(scorer, client, asked, rounds),
        *waiting_together(asking, asked),
    ]
    show(results, args.json)


if __name__ == "__main__":
    main()
