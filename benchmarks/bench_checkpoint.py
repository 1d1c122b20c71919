"""How long a checkpoint of a large mirror takes to write and load, and how long batches wait meanwhile."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from results import Result, arguments, show
from workload import BLOCK_TOKENS, MODEL, SEED, Event, fleet, payload

from kvatlas.index.keys import keyspace
from kvatlas.ingest._native import Decoder, Mirror
from kvatlas.ingest.checkpoint import (
    CheckpointHead,
    KeyspaceMark,
    WorkerIdentity,
    read_checkpoint,
    write_checkpoint,
)

SPACE = keyspace(MODEL, BLOCK_TOKENS, "fold64", SEED)
IDENTITY = WorkerIdentity(MODEL, "pod", 0, KeyspaceMark.of(SPACE, "fold64", BLOCK_TOKENS))
BATCH_BLOCKS = 16


def stores(blocks: int, seed: int, each: int) -> Iterator[bytes]:
    """Payloads that store so many blocks on one worker, at most `each` blocks a payload."""
    for held in fleet(1, blocks, seed=seed):
        for begin in range(held.first_new, len(held.keys), each):
            yield payload(Event(held, begin, min(begin + each, len(held.keys))))


def new_mirror() -> Mirror:
    mirror = Mirror(SPACE)
    mirror.set_lane(0, 0)
    return mirror


class Traffic:
    """Applies batches until told to stop; notes how long each took, in seconds."""

    def __init__(self, mirror: Mirror, payloads: list[bytes]) -> None:
        self.seconds: list[float] = []
        self._mirror = mirror
        self._payloads = payloads
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        decoder = Decoder()
        while not self._stop.is_set():
            for batch in self._payloads:
                decoder.decode(batch)
                begin = time.perf_counter()
                self._mirror.gather(decoder)
                self.seconds.append(time.perf_counter() - begin)
                self._mirror.take()
                if self._stop.is_set():
                    return


def run(blocks: int, rounds: int, folder: Path) -> list[Result]:
    mirror, decoder = new_mirror(), Decoder()
    for batch in stores(blocks, 1, 512):
        decoder.decode(batch)
        mirror.gather(decoder)
        mirror.take()
    held = mirror.sizes()["held_gpu"]
    traffic = list(islice(stores(1 << 17, 7, BATCH_BLOCKS), 4096))
    path = folder / "checkpoint"
    samples: dict[str, list[float]] = {"write": [], "begin": [], "wait": [], "quiet": [], "load": []}
    for _ in range(rounds):
        with Traffic(mirror, traffic) as quiet:
            time.sleep(0.2)
        with Traffic(mirror, traffic) as busy:
            begin = time.perf_counter()
            snapshot = mirror.begin_snapshot()
            samples["begin"].append((time.perf_counter() - begin) * 1e3)
            head = CheckpointHead(identity=IDENTITY, time_s=0.0)
            size = write_checkpoint(path, head, iter(snapshot.part, None))
            samples["write"].append(time.perf_counter() - begin)
        samples["quiet"].append(max(quiet.seconds) * 1e3)
        samples["wait"].append(max(busy.seconds) * 1e3)
        begin = time.perf_counter()
        loaded = new_mirror()
        loaded.restore(read_checkpoint(path, IDENTITY).parts)
        samples["load"].append(time.perf_counter() - begin)
        assert loaded.sizes()["held_gpu"] >= held
        samples["bytes"] = [size / loaded.sizes()["nodes"]]
    return summary(held, samples)


def summary(held: int, samples: dict[str, list[float]]) -> list[Result]:
    million = f"{held / 1e6:.1f} M blocks"
    lines = [
        ("write", f"write {million} while batches are applied", "s"),
        ("load", f"read, check and restore {million}", "s"),
        ("begin", "begin a snapshot", "ms"),
        ("wait", f"slowest batch of {BATCH_BLOCKS} blocks while it is written", "ms"),
        ("quiet", "the same while nothing is written", "ms"),
        ("bytes", "file, of a block", "bytes"),
    ]
    return [
        Result(
            row=f"checkpoint/{name}",
            what=what,
            unit=unit,
            median=float(np.median(samples[name])),
            best=min(samples[name]),
        )
        for name, what, unit in lines
    ]


def main() -> None:
    args = arguments(__doc__).parse_args()
    sys.setswitchinterval(1e-4)  # a batch should wait for the mirror, not for another thread's turn in Python
    with tempfile.TemporaryDirectory() as folder:
        show(run(100_000 if args.quick else 1_000_000, 3 if args.quick else 7, Path(folder)), args.json)


if __name__ == "__main__":
    main()
