"""A cluster's index written to a file while it serves, and loaded into another: seconds, and who waits."""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from live_cluster import BATCH_BLOCKS, BATCHES_PER_S, LiveCluster, cluster, local_ray, of_many, single, watch
from results import Result, arguments, show
from workload import MODEL, PAIRS, Held, events, fleet

from kvatlas.cluster.moving.dumping import DumpReport, dump_cluster
from kvatlas.cluster.moving.loading import load_into
from kvatlas.index.dumps.dump_file import DumpReader

SHARDS, PODS = 4, 8
_PAUSE_S = 0.02


class Asking:
    """Asks for scores all the time, in a thread, and notes the longest wait."""

    def __init__(self, live: LiveCluster, held: Held) -> None:
        self._live, self._held = live, held
        self._over = threading.Event()
        self.took_ms: list[float] = []
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _ask(self) -> None:
        tokens = self._held.tokens
        while not self._over.wait(0.001):
            begin = time.perf_counter()
            self._live.client.score(tokens, model=MODEL)
            self.took_ms.append((time.perf_counter() - begin) * 1e3)


def measure(pairs: int, rounds: int, folder: Path) -> list[Result]:
    file, reports = folder / "dump", []
    sequences = fleet(PODS, pairs)
    rate = PODS * BATCHES_PER_S
    with cluster(shards=SHARDS, pods=PODS) as live:
        live.fill(list(events(sequences, 512)))
        n_batches = int(rate * 2.0)
        more = list(events(fleet(PODS, 2 * n_batches * BATCH_BLOCKS * (rounds + 1), seed=5), BATCH_BLOCKS))
        quiet = watch(live, more[:n_batches], rate)
        seen: list[float] = []
        with Asking(live, sequences[0]) as asking:
            for number in range(1, rounds + 1):
                reports.append(_dump_beside(live, file))
                seen += watch(live, more[number * n_batches : (number + 1) * n_batches], rate).took_ms
                reports[-1].join()
    dumped = [one.report for one in reports]
    return [
        *_of_dumps(dumped, file),
        single("moving/asked", "longest client.score, all the while", "ms", max(asking.took_ms)),
        single("moving/asked p99", "client.score p99", "ms", float(np.quantile(asking.took_ms, 0.99))),
        single("moving/quiet", "publish to score, longest, no dump", "ms", max(quiet.took_ms)),
        single("moving/seen", "publish to score, longest, while dumps were taken", "ms", max(seen)),
        *_loads(file, rounds),
    ]


class _Dumping(threading.Thread):
    report: DumpReport

    def __init__(self, live: LiveCluster, file: Path) -> None:
        super().__init__()
        self._live, self._file = live, file

    def run(self) -> None:
        time.sleep(_PAUSE_S)
        self.report = dump_cluster(self._live.client.directory(), self._file)


def _dump_beside(live: LiveCluster, file: Path) -> _Dumping:
    dumping = _Dumping(live, file)
    dumping.start()
    return dumping


def _of_dumps(dumped: list[DumpReport], file: Path) -> list[Result]:
    what = f"{dumped[-1].pairs / 1e6:.2f} M pairs, {SHARDS} shards, {PODS} pods"
    return [
        of_many("moving/dump", f"dump of {what}, under load", "s", [one.seconds for one in dumped]),
        of_many("moving/held", "subscribers held", "ms", [one.held_s * 1e3 for one in dumped]),
        single("moving/bytes", "the file", "MB", file.stat().st_size / 1e6),
    ]


def _loads(file: Path, rounds: int) -> list[Result]:
    took_s = []
    with cluster(shards=SHARDS, pods=0) as live:
        for _ in range(rounds):
            with DumpReader(file) as reader:
                took_s.append(load_into(live.client.directory(), reader).seconds)
    first, others = took_s[0], took_s[1:] or took_s
    return [
        single("moving/load", "load into an empty cluster, its actor begun", "s", first),
        of_many("moving/load again", "load in the place of the same", "s", others),
    ]


def main() -> None:
    options = arguments(__doc__).parse_args()
    with local_ray(), tempfile.TemporaryDirectory() as folder:
        pairs, rounds = (PAIRS // 10, 2) if options.quick else (PAIRS, 3)
        show(measure(pairs, rounds, Path(folder)), options.json)


if __name__ == "__main__":
    main()
