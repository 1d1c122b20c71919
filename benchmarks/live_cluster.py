"""A cluster on a Ray of the benchmark's own: this process publishes and asks, actors do the rest."""

from __future__ import annotations

import logging
import os
import statistics
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import ray
from empty_actor import empty_actor
from publishers import Publishers
from results import Result, timed
from timing import alternate, over
from workload import BLOCK_TOKENS, MODEL, SEED, Event, Held, payload

from kvatlas.actors.orders import NAMESPACE
from kvatlas.cluster import launch
from kvatlas.cluster.client import Client
from kvatlas.cluster.config.actors_config import ScorersConfig, ShardsConfig, SubscribersConfig
from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.cluster.config.ranges import Transport
from kvatlas.index.scores import Scores
from kvatlas.ingest.config import AtlasConfig, ModelConfig
from kvatlas.ingest.discovery.config import DiscoveryConfig, StaticWatchConfig
from kvatlas.ingest.discovery.entries import PodEntry

NAME = "bench"
BATCHES_PER_S, BATCH_BLOCKS = 100, 4
"""Of each pod, where batches come evenly."""
TABLE_BYTES_MAX = 128 << 20
WAIT_S = 120.0
_LOOKS_PER_S_MAX = 800
_OBJECT_STORE_BYTES = 80 << 20
_PAUSE_S = 50e-6
_NEXT_TOKEN = np.uint32(1)


@contextmanager
def local_ray() -> Iterator[None]:
    """Ended at the end."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=_OBJECT_STORE_BYTES,
    )
    try:
        yield
    finally:
        ray.shutdown()


def empty_call(row: str) -> Result:
    """What Ray itself takes on this machine, now."""
    actor = empty_actor()
    call = over(lambda _: ray.get(actor.nothing.remote()), [None], sample_s=0.02)
    timing = alternate({"call": call}, rounds=21)["call"]
    ray.kill(actor)
    return timed(f"{row}/empty call", "beside it, an empty Ray call", timing)


class LiveCluster:
    """A cluster, and the pods that it follows. One thread publishes, any thread asks."""

    def __init__(self, client: Client, publishers: Publishers) -> None:
        self.client = client
        self._publishers = publishers
        self._next: dict[int, int] = defaultdict(int)

    def messages(self, stream: Iterable[Event]) -> list[tuple[int, list[bytes]]]:
        """To be published in this order, before any that are made later."""
        made = []
        for event in stream:
            worker = event.held.worker
            made.append((worker, [b"", self._next[worker].to_bytes(8, "big"), payload(event)]))
            self._next[worker] += 1
        return made

    def publish(self, messages: Sequence[tuple[int, list[bytes]]]) -> None:
        self._publishers.publish(messages)

    def score(self, held: Held, blocks: int | None = None) -> Scores:
        """Of its first blocks and one more token: a server computes the last block of a prompt anew."""
        tokens = held.tokens if blocks is None else held.tokens[: blocks * BLOCK_TOKENS]
        return self.client.score(np.append(tokens, _NEXT_TOKEN), model=MODEL)

    def holds(self, event: Event) -> bool:
        """Whether a score says that the pod has the event's last block, as any router would ask."""
        return self.score(event.held, event.end).get(f"pod-{event.held.worker}", 0.0) >= event.end

    def fill(self, stream: list[Event]) -> float:
        """Publish all at once; seconds until a reader sees the last blocks of each worker."""
        messages = self.messages(stream)
        last = list({event.held.worker: event for event in stream}.values())
        begin = time.perf_counter()
        self.publish(messages)
        wait_until(lambda: all(map(self.holds, last)), "every pod's last block to be visible")
        return time.perf_counter() - begin

    def pid(self, actor: str) -> int:
        """Of the process of an actor, by its name in the cluster, such as shard/1-0-0."""
        handle = ray.get_actor(f"{self.client.cluster}/{actor}", namespace=NAMESPACE)
        return int(ray.get(handle.__ray_call__.remote(lambda _: os.getpid()), timeout=10.0))


@contextmanager
def cluster(
    *, shards: int, pods: int, pods_each: int = 16, scorers: int = 0, transport: Transport = "zmq"
) -> Iterator[LiveCluster]:
    """Ray must be there. It is up, and follows all pods, which have published nothing yet."""
    publishers = Publishers(pods)
    entries = [
        PodEntry(pod=f"pod-{number}", endpoint=endpoint, model=MODEL)
        for number, endpoint in enumerate(publishers.endpoints)
    ]
    config = ClusterConfig(
        name=NAME,
        lifetime="owned",
        transport=transport,
        shards=ShardsConfig(count=shards, table_bytes_max=TABLE_BYTES_MAX),
        subscribers=SubscribersConfig(pods_each=pods_each),
        scorers=ScorersConfig(count=scorers),
        discovery=DiscoveryConfig(watches=(StaticWatchConfig(pods=tuple(entries)),)),
        atlas=AtlasConfig(hash_seed=SEED, models={MODEL: ModelConfig(block_size_tokens=BLOCK_TOKENS)}),
    )
    try:
        with launch.start(config) as client:
            publishers.wait_for_subscribers()
            wait_until(
                lambda: all(replica.whole for replica in client.status().shards), "every shard to be whole"
            )
            yield LiveCluster(client, publishers)
    finally:
        launch.down(NAME)
        publishers.close()


def wait_until(condition: Callable[[], bool], what: str, pause_s: float = 0.002) -> None:
    """Raises TimeoutError."""
    end_s = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > end_s:
            raise TimeoutError(f"expected {what} within {WAIT_S:.0f} s")
        time.sleep(pause_s)


# Batches that come evenly, and how soon each is seen.


class Seen(NamedTuple):
    """Of batches that came evenly."""

    took_ms: list[float]
    """From the call that published one to the first score that told of it, of those that were watched."""
    batches_per_s: float
    """Published, of all pods."""


def watch(live: LiveCluster, stream: list[Event], batches_per_s: float) -> Seen:
    """Publish evenly and ask for the oldest batch that is not seen yet, in turns.

    This process publishes and reads, so there is one clock. A batch that is visible while an older one
    is still waited for counts as late as that one. Where batches come fast only some are watched.
    """
    messages = live.messages(stream)
    every = max(1, round(batches_per_s / _LOOKS_PER_S_MAX))
    waiting: deque[tuple[float, Event]] = deque()
    took_ms: list[float] = []
    begin = time.perf_counter()
    sent, sent_s, end = 0, 0.0, begin + len(stream) / batches_per_s + WAIT_S
    while sent < len(stream) or waiting:
        now_s = time.perf_counter()
        if sent < len(stream) and now_s >= begin + sent / batches_per_s:
            live.publish(messages[sent : sent + 1])
            if sent % every == 0:
                waiting.append((now_s, stream[sent]))
            sent += 1
            sent_s = now_s - begin
        elif waiting and live.holds(waiting[0][1]):
            at_s, _ = waiting.popleft()
            took_ms.append((time.perf_counter() - at_s) * 1e3)
        elif now_s > end:
            raise TimeoutError(f"expected every batch to become visible, {len(waiting)} did not")
        else:
            time.sleep(_PAUSE_S)
    return Seen(took_ms, sent / sent_s)


def quantiles(row: str, what: str, seen: Seen) -> list[Result]:
    """p50 and p99."""
    cuts = statistics.quantiles(seen.took_ms, n=100)
    told = f"{what}, {seen.batches_per_s:.0f} batches/s"
    return [single(f"{row}/p{at}", f"{told}, p{at}", "ms", cuts[at - 1]) for at in (50, 99)]


def single(row: str, what: str, unit: str, value: float) -> Result:
    """A measurement that was made once."""
    return Result(row=row, what=what, unit=unit, median=value, best=value)


def of_many(row: str, what: str, unit: str, values: Sequence[float]) -> Result:
    """Less is better."""
    return Result(row=row, what=what, unit=unit, median=statistics.median(values), best=min(values))
