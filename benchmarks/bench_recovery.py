"""How long until a worker of 100 000 blocks is EXACT again after a late join, a gap, an engine restart."""

from __future__ import annotations

import logging
import statistics
import subprocess
import sys
import time
from pathlib import Path

from publishers import PUBLISHING_CORE, RECEIVING_CORE, process, take_core
from results import Result, arguments, show, timed
from timing import Timing
from workload import BLOCK_TOKENS, MODEL, SEED, events, fleet, pairs_of, payload

from kvatlas import Atlas, AtlasConfig, ModelConfig
from kvatlas.ingest.simulator.publisher import SimulatedPublisher
from kvatlas.ingest.sockets.source_config import SourceConfig
from kvatlas.ingest.sockets.subscriber import Subscriber
from kvatlas.ingest.sockets.subscriber_statistics import SubscriberStatistics

BLOCKS = 100_000
BLOCKS_AN_EVENT = 16
WAIT_S = 60.0
READY = "ready"
HERE = Path(__file__).resolve()


def payloads(n_blocks: int, seed: int) -> tuple[list[bytes], int]:
    """One worker's batches, and how many blocks they hold."""
    sequences = fleet(1, n_blocks, seed=seed)
    return [payload(event) for event in events(sequences, BLOCKS_AN_EVENT)], pairs_of(sequences)


def receive(kind: str, n_blocks: int, endpoint: str, replay_endpoint: str) -> None:
    """The receiving process: says how many seconds it took from the question to an EXACT worker."""
    config = AtlasConfig(hash_seed=SEED, models={MODEL: ModelConfig(block_size_tokens=BLOCK_TOKENS)})
    atlas = Atlas(config)

    def recovered(_: SubscriberStatistics) -> bool:
        workers = atlas.statistics().workers
        return bool(
            workers
            and workers[0].truth.state == "EXACT"
            and workers[0].blocks["gpu"] == n_blocks
            and workers[0].restarts == (kind == "restart")
        )

    with Subscriber(atlas, [SourceConfig(endpoint=endpoint, replay_endpoint=replay_endpoint)]) as subscriber:
        n_asked = 0
        if kind != "late join":
            n_asked = first_answer(subscriber)
        assert subscriber.wait_until(lambda s: s.replay.asked > n_asked, WAIT_S)
        begin = time.perf_counter()
        assert subscriber.wait_until(recovered, WAIT_S), atlas.statistics().workers
        print(time.perf_counter() - begin, flush=True)


def first_answer(subscriber: Subscriber) -> int:
    """How many questions had been asked when the first one was answered, and nothing more was to be."""
    assert subscriber.wait_until(lambda s: s.replay.complete > 0 and s.replay.in_flight == 0, WAIT_S)
    print(READY, flush=True)
    return subscriber.statistics().replay.asked


KINDS = ("late join", "gap", "restart")


def measure(kind: str, earlier: list[bytes], batches: list[bytes], n_blocks: int) -> float:
    with SimulatedPublisher(f"kv@pod@{MODEL}", buffer_steps=20_000, replay_hwm=100_000) as publisher:
        assert publisher.replay_endpoint is not None
        if kind != "gap":
            publish(publisher, earlier if kind == "restart" else batches)
        command = [str(HERE), "--receive", kind, str(n_blocks), publisher.endpoint, publisher.replay_endpoint]
        with process(command) as receiving:
            if kind != "late join":
                expect(READY, receiving)
            if kind == "gap":  # all but the last batch are lost on their way
                publisher.lose(len(batches) - 1)
                publish(publisher, batches)
            elif kind == "restart":  # it has stored as many others when it is connected again
                publisher.restart()
                publish(publisher, batches)
            return float(line(receiving))


def publish(publisher: SimulatedPublisher, batches: list[bytes]) -> None:
    for batch in batches:
        publisher.publish(batch)


def line(receiving: subprocess.Popen[str]) -> str:
    assert receiving.stdout is not None
    said = receiving.stdout.readline().strip()
    if not said:
        raise RuntimeError("the receiving process has ended")
    return said


def expect(wanted: str, receiving: subprocess.Popen[str]) -> None:
    said = line(receiving)
    if said != wanted:
        raise RuntimeError(f"expected {wanted!r} from the receiving process, got {said!r}")


def bench(kind: str, rounds: int, blocks: int) -> Result:
    earlier, _ = payloads(blocks, seed=1)
    batches, n_blocks = payloads(blocks, seed=2)
    seconds = [measure(kind, earlier, batches, n_blocks) for _ in range(rounds)]
    timing = Timing(statistics.median(seconds), min(seconds))
    return timed(f"recovery/{kind}", f"{kind}, {n_blocks} blocks", timing)


def main() -> None:
    if sys.argv[1:2] == ["--receive"]:
        take_core(RECEIVING_CORE)
        logging.disable(logging.WARNING)
        receive(sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5])
        return
    args = arguments(__doc__).parse_args()
    take_core(PUBLISHING_CORE)
    rounds, blocks = (1, BLOCKS // 10) if args.quick else (5, BLOCKS)
    show([bench(kind, rounds, blocks) for kind in KINDS], args.json)


if __name__ == "__main__":
    main()
