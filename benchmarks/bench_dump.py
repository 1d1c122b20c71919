"""How long dumps of an index take to write and load, how large they are, how long applies wait meanwhile."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from peer import Peer, load_peer
from results import Result, arguments, show
from workload import ADD, PAIRS, Held, filled_index, fleet, pairs_of, record

from kvatlas.index.dumps.dump_file import DumpReader, write_dump
from kvatlas.index.dumps.loading import load_dump
from kvatlas.index.dumps.meta import DumpMeta
from kvatlas.index.shards import ShardedIndex

FLEETS = {"8": (8, 256), "64": (64, 256), "8 unshared": (8, 0), "64 unshared": (64, 0)}
"""Workers, and blocks that the sequences of a group share."""
META = DumpMeta(created_s=0.0)
APPLIED_BLOCKS = 16


class Traffic:
    """Applies small deltas until told to stop; notes the longest, in seconds."""

    def __init__(self, index: ShardedIndex) -> None:
        self.longest_s = 0.0
        self._index = index
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        for delta in self._deltas():
            begin = time.perf_counter()
            self._index.apply([delta])
            self.longest_s = max(self.longest_s, time.perf_counter() - begin)
            if self._over.is_set():
                return

    def _deltas(self) -> Iterator[bytes]:
        """Blocks of one lane, the same few again and again: what is dumped stays as large."""
        random = np.random.default_rng(9)
        keys = random.integers(1, 2**63, size=(64, APPLIED_BLOCKS), dtype=np.uint64)
        deltas = [record(ADD, 1000, int(row[0]), row) for row in keys]
        while True:
            yield from deltas


def ours(index: ShardedIndex, path: Path, samples: dict[str, list[float]]) -> None:
    begin = time.perf_counter()
    totals = write_dump(path, META, index.export())
    written = time.perf_counter()
    target = ShardedIndex()
    with DumpReader(path) as dump:
        load_dump(dump, target)
    loaded = time.perf_counter()
    assert target.statistics()[0]["entries"] == totals.entries
    samples["write"].append(written - begin)
    samples["load"].append(loaded - written)
    samples["both"].append(loaded - begin)
    samples["MB"] = [path.stat().st_size / 1e6]
    with Traffic(index) as traffic:
        for _ in range(3):
            write_dump(path, META, index.export())
    samples["wait"].append(traffic.longest_s * 1e3)


def theirs(peer: Peer, tree: Any, samples: dict[str, list[float]]) -> None:
    """Their dump is a list of JSON documents; making bytes of them again is not counted."""
    begin = time.perf_counter()
    events = tree.dump_tree_as_events()
    written = time.perf_counter()
    samples["write"].append(written - begin)
    samples["MB"] = [sum(map(len, events)) / 1e6]
    applied = [
        (event["worker_id"], msgspec.json.encode(event["event"]))
        for event in map(msgspec.json.decode, events)
    ]
    target = peer.tree()
    begin = time.perf_counter()
    for worker, event in applied:
        target.apply_event(worker, event)
    samples["load"].append(time.perf_counter() - begin)
    samples["both"].append(samples["write"][-1] + samples["load"][-1])


def run(name: str, sequences: list[Held], rounds: int, peer: Peer | None, folder: Path) -> list[Result]:
    index = filled_index(sequences)
    tree = peer and peer.filled_tree(sequences)
    kinds = ("write", "load", "both", "MB", "wait")
    samples: dict[str, list[float]] = {kind: [] for kind in kinds}
    other: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        ours(index, folder / "dump", samples)
        if peer is not None:
            theirs(peer, tree, other)
    index.close()
    return summary(name, pairs_of(sequences), samples, other)


def summary(
    name: str, pairs: int, samples: dict[str, list[float]], other: dict[str, list[float]]
) -> list[Result]:
    of = f"{pairs / 1e6:.1f} M pairs, {name} workers"
    lines = [
        ("write", f"dump {of}", "s"),
        ("load", f"load {of}", "s"),
        ("both", f"dump and load {of}", "s"),
        ("MB", f"size of a dump of {of}", "MB"),
        ("wait", f"slowest apply of {APPLIED_BLOCKS} blocks while dumping {of}", "ms"),
    ]
    return [
        Result(
            row=f"dump/{name}/{kind}",
            what=what,
            unit=unit,
            median=float(np.median(samples[kind])),
            best=min(samples[kind]),
            peer_median=float(np.median(other[kind])) if other[kind] else None,
            peer_best=min(other[kind]) if other[kind] else None,
        )
        for kind, what, unit in lines
    ]


def main() -> None:
    args = arguments(__doc__).parse_args()
    sys.setswitchinterval(1e-4)  # an apply should wait for the table, not for another thread's turn in Python
    peer = load_peer()
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (workers, shared) in FLEETS.items():
            sequences = fleet(workers, PAIRS // 10 if args.quick else PAIRS, shared=shared)
            results += run(name, sequences, 2 if args.quick else 5, peer, Path(folder))
    show(results, args.json)


if __name__ == "__main__":
    main()
