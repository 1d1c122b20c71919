"""How many blocks a second go from ZeroMQ sockets into the table, in one process on one core."""

from __future__ import annotations

import json
import logging
import statistics
import sys
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

from peer import load_peer
from publishers import PUBLISHING_CORE, RECEIVING_CORE, Publishers, process, seconds_until, take_core
from results import Result, arguments, rated, show
from timing import Timing
from workload import BLOCK_TOKENS, MODEL, SEED, Event, events, fleet, pairs_of, payload

from kvatlas import Atlas, AtlasConfig, ModelConfig
from kvatlas.ingest.sockets.source_config import SourceConfig
from kvatlas.ingest.sockets.subscriber import Subscriber

WORKERS = 8
BLOCKS_OF = {512: 1_000_000, 16: 1_000_000, 1: 250_000}
"""Blocks an event -> blocks published in a round."""
DONE = "all there"
LOOK_S, PEER_LOOK_S = 0.005, 0.05
PEER_PORT = 18_737
HERE = Path(__file__).resolve()


class Stream(NamedTuple):
    """What is published: one event a message, each worker on a socket of its own."""

    messages: list[tuple[int, list[bytes]]]
    last: dict[int, Event]
    """By worker."""
    n_blocks: int


def make_stream(blocks: int, pairs: int) -> Stream:
    sequences = fleet(WORKERS, pairs)
    stream = Stream([], {}, pairs_of(sequences))
    numbers = dict.fromkeys(range(WORKERS), 0)
    for event in events(sequences, blocks):
        worker = event.held.worker
        stream.messages.append((worker, [b"", numbers[worker].to_bytes(8, "big"), payload(event)]))
        stream.last[worker] = event
        numbers[worker] += 1
    return stream


def receive(n_batches: int, n_blocks: int, endpoints: list[str]) -> None:
    """The receiving process: says when everything is in the table."""
    config = AtlasConfig(hash_seed=SEED, models={MODEL: ModelConfig(block_size_tokens=BLOCK_TOKENS)})
    atlas = Atlas(config)
    sources = [SourceConfig(endpoint=e, pod=f"pod-{n}", model=MODEL) for n, e in enumerate(endpoints)]
    with Subscriber(atlas, sources) as subscriber:
        while subscriber.statistics().batches < n_batches:
            time.sleep(LOOK_S)
        print(DONE, flush=True)
        seen = atlas.statistics()
        assert seen.events["blocks_stored"] == n_blocks, seen.events
        assert {worker.truth.state for worker in seen.workers} == {"EXACT"}


def time_ours(stream: Stream) -> float:
    publishers = Publishers(WORKERS)
    command = [str(HERE), "--receive", str(len(stream.messages)), str(stream.n_blocks), *publishers.endpoints]
    try:
        with process(command) as receiving:
            publishers.wait_for_subscribers()
            begin = time.perf_counter()
            publishers.publish(stream.messages)
            return seconds_until(DONE, receiving, begin)
    finally:
        publishers.close()


def time_peer(stream: Stream) -> float:
    """The peer's standalone indexer with one indexing thread, which is asked for the last blocks."""
    publishers = Publishers(WORKERS)
    workers = ",".join(f"{number}={endpoint}" for number, endpoint in enumerate(publishers.endpoints))
    try:
        with process([str(HERE), "--peer", workers]):
            publishers.wait_for_subscribers()
            begin = time.perf_counter()
            publishers.publish(stream.messages)
            for worker, event in stream.last.items():
                while not peer_holds(worker, event):
                    time.sleep(PEER_LOOK_S)
            return time.perf_counter() - begin
    finally:
        publishers.close()


def peer_holds(worker: int, event: Event) -> bool:
    tokens = event.held.tokens[: event.end * BLOCK_TOKENS].tolist()
    request = urllib.request.Request(
        f"http://127.0.0.1:{PEER_PORT}/query",
        json.dumps({"token_ids": tokens, "model_name": MODEL}).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        scores = json.loads(answer.read())["scores"]
    return bool(scores.get(str(worker), {}).get("0", 0) >= len(tokens))


def run_peer(workers: str) -> None:
    from dynamo import _core

    options = {"--block-size": BLOCK_TOKENS, "--port": PEER_PORT, "--threads": 1, "--model-name": MODEL}
    named = [str(part) for option in options.items() for part in option]
    _core.run_kv_indexer([*named, "--workers", workers])


def bench_event_size(blocks: int, rounds: int, share: int, with_peer: bool) -> Result:
    stream = make_stream(blocks, BLOCKS_OF[blocks] // share)
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(time_ours(stream) / stream.n_blocks)
        if with_peer:
            theirs.append(time_peer(stream) / stream.n_blocks)
    name = "1 block" if blocks == 1 else f"{blocks} blocks"
    peer = Timing(statistics.median(theirs), min(theirs)) if theirs else None
    return rated(f"subscriber/{blocks}", f"{name} an event", Timing(statistics.median(ours), min(ours)), peer)


def main() -> None:
    if sys.argv[1:2] == ["--receive"]:
        take_core(RECEIVING_CORE)
        logging.disable(logging.WARNING)
        receive(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
        return
    if sys.argv[1:2] == ["--peer"]:
        take_core(RECEIVING_CORE)
        run_peer(sys.argv[2])
        return
    args = arguments(__doc__).parse_args()
    with_peer = load_peer() is not None
    take_core(PUBLISHING_CORE)
    rounds, share = (2, 10) if args.quick else (5, 1)
    show([bench_event_size(blocks, rounds, share, with_peer) for blocks in BLOCKS_OF], args.json)


if __name__ == "__main__":
    main()
