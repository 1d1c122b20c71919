"""Whether inserts and evictions without end keep memory flat, and how long they make an apply pause."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from footprint import peak_bytes, resident_bytes
from results import Result, arguments, show
from workload import ADD, REMOVE, Keys, record

from kvatlas.index._native import Table

RECORD_KEYS = 512
LANES = 64


def batch_of_keys(number: int) -> Keys:
    """The keys of the number-th record: a counter, scrambled (splitmix64)."""
    with np.errstate(over="ignore"):
        first = np.uint64(number) * np.uint64(RECORD_KEYS) + np.uint64(1)
        x = (first + np.arange(RECORD_KEYS, dtype=np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        keys: Keys = x ^ (x >> np.uint64(31))
    return keys


def delta(op: int, number: int) -> bytes:
    keys = batch_of_keys(number)
    return record(op, number % LANES, int(keys[0]), keys)


class Churn:
    """A table that holds the last so many records; each new one drives the oldest out."""

    def __init__(self, live_entries: int, inserts: int) -> None:
        self.table = Table()
        self.live = live_entries // RECORD_KEYS
        self.steps = inserts // RECORD_KEYS
        for number in range(self.live):
            self.table.apply(delta(ADD, number))
        self.pauses_ns: npt.NDArray[np.int64] = np.full((self.steps, 2), -1, np.int64)

    def run(self) -> Iterator[float]:
        """Yields the share done at every tenth."""
        tenth = max(1, self.steps // 10)
        clock = time.perf_counter_ns
        for step in range(self.steps):
            eviction, insert = delta(REMOVE, step), delta(ADD, step + self.live)
            begin = clock()
            self.table.apply(eviction)
            middle = clock()
            self.table.apply(insert)
            self.pauses_ns[step] = middle - begin, clock() - middle
            if (step + 1) % tenth == 0:
                yield (step + 1) / self.steps


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--inserts", type=int, help="100 M; with --quick 5 M")
    parser.add_argument("--live", type=int, default=1_000_000, help="entries held, 1 M")
    args = parser.parse_args()
    churn = Churn(args.live, args.inserts or (5_000_000 if args.quick else 100_000_000))
    peaks: list[int] = []
    print("done   resident MB   peak MB   table MB   load   rebuilds   slowest apply so far, ms")
    for done in churn.run():
        peaks.append(peak_bytes())
        s = churn.table.statistics()
        slowest = churn.pauses_ns.max() / 1e6
        print(
            f"{done:4.0%}   {resident_bytes() / 1e6:11.1f}   {peaks[-1] / 1e6:7.1f}   {s['bytes'] / 1e6:8.1f}"
            f"   {s['load_factor']:4.2f}   {s['rebuilds']:8}   {slowest:.2f}",
            flush=True,
        )
    statistics = churn.table.statistics()
    assert statistics["entries"] == churn.live * RECORD_KEYS, statistics
    assert statistics["dropped_entries"] == statistics["dropped_adds"] == 0, statistics
    print()
    show(summary(churn, peaks), args.json)


def summary(churn: Churn, peaks: list[int]) -> list[Result]:
    pauses_ms = churn.pauses_ns / 1e6
    seconds = float(pauses_ms.sum() / 1e3)
    growth = peaks[-1] / peaks[len(peaks) // 2 - 1]
    keys = churn.steps * RECORD_KEYS
    lines = [
        ("p50", "pause of an apply of 512 keys, p50", "ms", float(np.percentile(pauses_ms, 50))),
        ("p99", "pause of an apply of 512 keys, p99", "ms", float(np.percentile(pauses_ms, 99))),
        ("max", "pause of an apply of 512 keys, slowest", "ms", float(pauses_ms.max())),
        ("rate", f"inserts and evictions, {keys / 1e6:.0f} M of each", "M keys/s", 2 * keys / seconds / 1e6),
        ("growth", "peak memory at the end, times that at the half", "times", growth),
    ]
    return [
        Result(row=f"churn/{name}", what=what, unit=unit, median=value, best=value)
        for name, what, unit, value in lines
    ]


if __name__ == "__main__":
    main()
