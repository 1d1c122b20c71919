"""From a model server's socket to every shard: blocks a second, and milliseconds until a block is visible."""

from __future__ import annotations

import json
import logging
import statistics
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import PIPE, Popen
from typing import NamedTuple

import zmq
from footprint import resident_bytes
from publishers import SUBSCRIBE_S_MAX, Publishers
from results import Result, arguments, show
from workload import BLOCK_TOKENS, MODEL, SEED, Event, events, fleet, pairs_of, payload

from kvatlas.actors.link.links import Links
from kvatlas.actors.link.server import LinkServer
from kvatlas.actors.orders import (
    ClusterView,
    Layout,
    Lease,
    LinkKeys,
    PodOrders,
    ShardAsks,
    SubscriberOrders,
    decode,
    encode,
)
from kvatlas.actors.shard.service import ShardService
from kvatlas.actors.shard.settings import ShardSettings
from kvatlas.actors.subscriber.service import SubscriberService
from kvatlas.actors.subscriber.settings import SubscriberSettings
from kvatlas.index._native import TableReader
from kvatlas.ingest.config import AtlasConfig, ModelConfig
from kvatlas.ingest.discovery.pods import DiscoveredPod, encode_pod
from kvatlas.ingest.sockets.source_config import SourceConfig

PODS, BATCHES_PER_S, BATCH_BLOCKS = 16, 100, 4
SESSION = 1
MEMORY_PODS = 64
HERE = Path(__file__).resolve()


# The two other processes. They say what they are by a line, and end with their standard input.


def hold_shards(n_shards: int, folder: str) -> None:
    keys = decode(bytes.fromhex(sys.stdin.readline()), LinkKeys)
    settings = ShardSettings(shared_memory_folder=folder, table_bytes_max=1 << 29)
    services, replicas = [], []
    for shard in range(n_shards):
        asks = ShardAsks(layout=1, shard=shard, replica=0, actor="", node_id="n")
        services.append(ShardService("bench", asks, 100 + shard, settings))
        server = LinkServer(services[-1].handle, keys)
        replicas.append(services[-1].report(server.endpoint).replica)
    say(encode(Layout(number=1, n_shards=n_shards, replicas=tuple(replicas))).hex())
    over = threading.Event()
    threading.Thread(target=wait_for_end, args=(over,), daemon=True).start()
    while not over.wait(0.5):
        for service in services:
            service.heartbeat()


def wait_for_end(over: threading.Event) -> None:
    sys.stdin.read()
    over.set()


def subscribe() -> None:
    """Orders and view come on standard input; each further line asks for the resident memory."""
    logging.disable(logging.WARNING)
    orders = decode(bytes.fromhex(sys.stdin.readline()), SubscriberOrders)
    view = decode(bytes.fromhex(sys.stdin.readline()), ClusterView)
    models = {MODEL: ModelConfig(block_size_tokens=BLOCK_TOKENS)}
    settings = SubscriberSettings(atlas=AtlasConfig(models=models))
    links = Links(orders.keys)
    service = SubscriberService("0", orders, settings, open_link=links.open).start(orders)
    service.follow(view)
    say("ready")
    for _ in sys.stdin:
        mirror = service.statistics().mirror
        stored = mirror.events["blocks_stored"]
        say(json.dumps([resident_bytes(), stored, sum(worker.mirror_bytes for worker in mirror.workers)]))
    service.stop()


def say(line: str) -> None:
    print(line, flush=True)


# This process: it publishes, and looks into the shards' shared memory.


class Cluster(NamedTuple):
    publishers: Publishers
    readers: list[TableReader]
    subscriber: Popen[str]

    def holds(self, event: Event) -> bool:
        return any(reader.lookup(event.held.keys[event.end - 1 : event.end])[0] for reader in self.readers)

    def memory(self) -> tuple[int, int, int]:
        """Bytes resident of the subscriber, blocks stored, bytes of its mirrors."""
        ask(self.subscriber, "memory")
        resident, stored, mirrors = json.loads(hear(self.subscriber))
        return resident, stored, mirrors


def ask(process: Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def hear(process: Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@contextmanager
def child(*arguments: str) -> Iterator[Popen[str]]:
    process = Popen([sys.executable, str(HERE), *arguments], stdin=PIPE, stdout=PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def cluster(n_shards: int, n_pods: int) -> Iterator[Cluster]:
    server, client = zmq.curve_keypair(), zmq.curve_keypair()
    names = ("server_public", "server_secret", "client_public", "client_secret")
    keys = LinkKeys(**dict(zip(names, (key.decode() for key in (*server, *client)), strict=True)))
    with ExitStack() as closing:
        folder = closing.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm"))
        shards = closing.enter_context(child("--shards", str(n_shards), folder))
        ask(shards, encode(keys).hex())
        layout = decode(bytes.fromhex(hear(shards)), Layout)
        publishers = Publishers(n_pods)
        closing.callback(publishers.close)
        subscriber = closing.enter_context(child("--subscribe"))
        ask(subscriber, encode(orders_of(publishers.endpoints, keys)).hex())
        view = ClusterView(version=1, cluster="bench", serving=layout, sessions=(SESSION,))
        ask(subscriber, encode(view).hex())
        assert hear(subscriber) == "ready"
        if n_pods:
            publishers.wait_for_subscribers()
        yield Cluster(publishers, [TableReader(replica.path) for replica in layout.replicas], subscriber)


def orders_of(endpoints: list[str], keys: LinkKeys) -> SubscriberOrders:
    pods = []
    for number, endpoint in enumerate(endpoints):
        source = SourceConfig(endpoint=endpoint, pod=f"pod-{number}", model=MODEL)
        found = DiscoveredPod(pod=f"pod-{number}", sources=(source,))
        pods.append(PodOrders(pod=found.pod, source=encode_pod(found)))
    return SubscriberOrders(
        session=SESSION,
        pods=tuple(pods),
        lanes=(Lease(0, 1000),),
        workers=(Lease(0, 1000),),
        hash_seed=SEED,
        keys=keys,
    )


def messages_of(stream: list[Event]) -> list[tuple[int, list[bytes]]]:
    numbers: dict[int, int] = {}
    messages = []
    for event in stream:
        worker = event.held.worker
        number = numbers[worker] = numbers.get(worker, -1) + 1
        messages.append((worker, [b"", number.to_bytes(8, "big"), payload(event)]))
    return messages


def rate(n_shards: int, pairs: int) -> Result:
    """All at once, until the last block of each worker is visible."""
    sequences = fleet(PODS, pairs)
    stream = list(events(sequences, 512))
    messages = messages_of(stream)
    last = list({event.held.worker: event for event in stream}.values())
    with cluster(n_shards, PODS) as made:
        begin = time.perf_counter()
        made.publishers.publish(messages)
        while not all(map(made.holds, last)):
            if time.perf_counter() - begin > SUBSCRIBE_S_MAX:
                raise TimeoutError("expected all blocks to become visible")
            time.sleep(0.002)
        took_s = time.perf_counter() - begin
    mega = pairs_of(sequences) / took_s / 1e6
    what = f"socket to {n_shards} shards, 512 blocks an event"
    return Result(row=f"outbox/rate/{n_shards}", what=what, unit="M blocks/s", median=mega, best=mega)


def latency(n_shards: int, seconds: float) -> list[Result]:
    """Batches come evenly; each is waited for by looking into shared memory."""
    n_batches = int(PODS * BATCHES_PER_S * seconds)
    stream = list(events(fleet(PODS, 2 * n_batches * BATCH_BLOCKS), BATCH_BLOCKS))[:n_batches]
    messages = messages_of(stream)
    waiting: deque[tuple[float, Event]] = deque()
    took_ms: list[float] = []
    with cluster(n_shards, PODS) as made:
        time.sleep(1.0)  # what a start costs is not asked
        begin = time.perf_counter()
        sent = 0
        while sent < n_batches or waiting:
            now_s = time.perf_counter()
            if sent < n_batches and now_s >= begin + sent / (PODS * BATCHES_PER_S):
                made.publishers.publish(messages[sent : sent + 1])
                waiting.append((now_s, stream[sent]))
                sent += 1
            elif waiting and made.holds(waiting[0][1]):
                at_s, _ = waiting.popleft()
                took_ms.append((time.perf_counter() - at_s) * 1e3)
            else:
                time.sleep(50e-6)
    cuts = statistics.quantiles(took_ms, n=100)
    what = f"{PODS} pods x {BATCHES_PER_S} batches/s, {n_shards} shards, event to visible"
    return [
        Result(
            row=f"outbox/visible/p{at}",
            what=f"{what}, p{at}",
            unit="ms",
            median=cuts[at - 1],
            best=cuts[at - 1],
        )
        for at in (50, 99)
    ]


def memory(pairs: int) -> list[Result]:
    """Resident bytes of a subscriber's process without a pod, and of one that serves many."""
    results = []
    for n_pods in (0, MEMORY_PODS):
        sequences = fleet(n_pods, pairs) if n_pods else []
        with cluster(1, n_pods) as made:
            made.publishers.publish(messages_of(list(events(sequences, 512))))
            while made.memory()[1] < pairs_of(sequences):
                time.sleep(0.05)
            resident, stored, mirrors = made.memory()
        holds = f"{stored / 1e3:.0f} k blocks, mirrors {mirrors >> 20} MiB"
        what = f"memory of a subscriber of {n_pods} pods, {holds}"
        mib = resident / (1 << 20)
        results.append(Result(row=f"outbox/memory/{n_pods}", what=what, unit="MiB", median=mib, best=mib))
    return results


def main() -> None:
    if sys.argv[1:2] == ["--shards"]:
        hold_shards(int(sys.argv[2]), sys.argv[3])
    elif sys.argv[1:2] == ["--subscribe"]:
        subscribe()
    else:
        args = arguments(__doc__).parse_args()
        pairs, seconds = (100_000, 2.0) if args.quick else (1_000_000, 10.0)
        rates = [rate(n_shards, pairs) for n_shards in (1, 4, 8)]
        show([*rates, *latency(4, seconds), *memory(pairs)], args.json)


if __name__ == "__main__":
    main()
