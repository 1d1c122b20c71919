"""What a lookup costs a process that reads the table from shared memory, beside one in its own memory."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import numpy as np
from results import Result, arguments, show
from timing import alternate, over
from workload import (
    CLOSE,
    PAIRS,
    additions,
    filled_index,
    fleet,
    keys_of,
    long_sequences,
    random_tokens,
    record,
)

from kvatlas.index._native import Index, Roster, Table, TableReader

WORKERS = 64
HEARTBEAT_S = 1.0
ROWS = {"512 blocks hit": "hit512", "8 192 blocks hit": "hit8192", "512 blocks miss": "miss512"}


def child(path: str, pairs: int, rounds: int) -> None:
    """Looks up the same chains in a table of its own and in the parent's."""
    stored, deep = fleet(WORKERS, pairs), long_sequences(WORKERS)
    random = np.random.default_rng(4)
    chosen = random.choice(len(stored), size=min(512, len(stored)), replace=False).tolist()
    asked = {
        "512 blocks hit": [stored[i].keys for i in chosen],
        "8 192 blocks hit": [held.keys for held in deep],
        "512 blocks miss": [keys_of(random_tokens(random, 512)) for _ in range(64)],
    }
    roster = Roster()
    for worker in range(WORKERS):
        roster.set(worker, [worker], [])
    results = []
    for lanes in ("closed", "open"):
        own = filled_index([*stored, *deep], closed=lanes == "closed")
        there = Index([TableReader(f"{path}-{lanes}")], roster)
        here = Index(own.tables, roster)
        for what, chains in asked.items():
            for keys in chains[:8]:
                assert here.match(keys)[1].tolist() == there.match(keys)[1].tolist()
            timings = alternate(
                {"here": over(here.match, chains), "there": over(there.match, chains)}, rounds=rounds
            )
            ours, base = timings["there"], timings["here"]
            results.append(
                Result(
                    row=f"reader/{ROWS[what]}/{lanes}",
                    what=f"{what}, {lanes} lanes",
                    unit="us",
                    median=ours.median * 1e6,
                    best=ours.best * 1e6,
                    peer_median=base.median * 1e6,
                    peer_best=base.best * 1e6,
                )
            )
    print(msgspec.json.encode(results).decode())


def fill(table: Table, pairs: int, closed: bool) -> None:
    for held in [*fleet(WORKERS, pairs), *long_sequences(WORKERS)]:
        table.apply(additions(held)[0])
    for worker in range(WORKERS):
        if closed:
            table.apply(record(CLOSE, worker))


def measure(folder: str, pairs: int, rounds: int) -> list[Result]:
    path = str(Path(folder) / "table")
    tables = {lanes: Table(path=f"{path}-{lanes}") for lanes in ("closed", "open")}
    for lanes, table in tables.items():
        fill(table, pairs, lanes == "closed")
    command = [sys.executable, __file__, "--child", path, "--pairs", str(pairs), "--rounds", str(rounds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        while True:
            for table in tables.values():
                table.heartbeat()
            try:
                printed, _ = process.communicate(timeout=HEARTBEAT_S)
                break
            except subprocess.TimeoutExpired:
                continue
    for table in tables.values():
        table.close()
    if process.returncode:
        raise SystemExit(f"the reading process failed: {process.returncode}")
    return msgspec.json.decode(printed, type=list[Result])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--pairs", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.pairs, args.rounds)
        return
    shared = Path("/dev/shm")
    print("Beside it, as the peer: the same lookups in a table of the reader's own process.\n")
    with tempfile.TemporaryDirectory(prefix="kvatlas-", dir=shared if shared.is_dir() else None) as folder:
        results = measure(folder, PAIRS // 4 if args.quick else PAIRS, 21 if args.quick else 101)
    show(results, args.json)


if __name__ == "__main__":
    main()
