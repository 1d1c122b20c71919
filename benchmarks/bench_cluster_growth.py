"""How cost grows with shards and with pods: a score, blocks a second, event to visible, memory, a view."""

from __future__ import annotations

from pathlib import Path

from answers import known
from live_cluster import (
    BATCH_BLOCKS,
    BATCHES_PER_S,
    LiveCluster,
    cluster,
    empty_call,
    local_ray,
    quantiles,
    single,
    watch,
)
from results import Result, arguments, show, timed
from timing import alternate, over
from workload import MODEL, events, fleet, pairs_of

from kvatlas.actors.orders import ClusterView, encode

SIZES = ((1, 16), (2, 16), (4, 16), (8, 16), (4, 1), (4, 4), (4, 64))
"""Shards and pods."""


def measure(shards: int, pods: int, pairs: int, seconds: float) -> list[Result]:
    row, what = f"growth/{shards}x{pods}", f"shards: {shards}, pods: {pods}"
    sequences = fleet(pods, pairs)
    rate = pods * BATCHES_PER_S
    batches = list(events(fleet(pods, 2 * int(rate * seconds) * BATCH_BLOCKS, seed=5), BATCH_BLOCKS))
    with cluster(shards=shards, pods=pods) as live:
        took_s = live.fill(list(events(sequences, 512)))
        truths = known(sequences, 256)
        assert not any(truth.is_wrong(live.score(truth.held)) for truth in truths)
        asked = [truth.held.tokens for truth in truths]
        scoring = {"score": over(lambda tokens: live.client.score(tokens, model=MODEL), asked)}
        score = alternate(scoring, rounds=21)["score"]
        seen = watch(live, batches[: int(rate * seconds)], rate)
        return [
            timed(f"{row}/score", f"{what}: client.score of 512 blocks, attached", score),
            single(
                f"{row}/rate",
                f"{what}: publish to score, all at once",
                "M blocks/s",
                pairs_of(sequences) / took_s / 1e6,
            ),
            *quantiles(f"{row}/visible", f"{what}: publish to score", seen),
            *sizes(row, what, live),
        ]


def sizes(row: str, what: str, live: LiveCluster) -> list[Result]:
    """What the tables take, what readers are sent."""
    view = live.client.directory().ask("view", ClusterView, 0, 0.0)
    parts = [len(encode(part)) for part in view.parts]
    private = sum(private_bytes(live.pid(name)) for name in processes(live))
    tables = sum(shard.bytes for shard in live.client.status().shards)
    return [
        single(f"{row}/tables", f"{what}: all tables", "MiB", tables / (1 << 20)),
        single(f"{row}/processes", f"{what}: private memory of all actors", "MiB", private / (1 << 20)),
        single(f"{row}/view", f"{what}: the whole view", "bytes", len(encode(view))),
        single(f"{row}/part", f"{what}: its largest part", "bytes", max(parts)),
    ]


def processes(live: LiveCluster) -> list[str]:
    """Of the cluster's actors."""
    status = live.client.status()
    return [
        "directory",
        *(f"shard/{shard.layout}-{shard.shard}-{shard.replica}" for shard in status.shards),
        *(f"subscriber/{subscriber.name}" for subscriber in status.subscribers),
    ]


def private_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def main() -> None:
    args = arguments(__doc__).parse_args()
    pairs, seconds = (50_000, 1.0) if args.quick else (250_000, 3.0)
    with local_ray():
        results = [empty_call("growth")]
        for size in SIZES:
            results += measure(*size, pairs, seconds)
    show(results, args.json)


if __name__ == "__main__":
    main()
