"""Memory of a subscriber's process, idle and with 64 pods, beside an empty Ray actor; and of the others."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import NamedTuple

import msgspec
import ray
from empty_actor import empty_actor
from live_cluster import LiveCluster, cluster, local_ray, single, wait_until
from results import Result, arguments, show
from workload import events, fleet, pairs_of

from kvatlas.actors.orders import NAMESPACE
from kvatlas.actors.subscriber.service import ServiceStatistics

PODS, SHARDS = 64, 4
MIB = 1 << 20


class Footprint(NamedTuple):
    """Of one process, bytes."""

    rss: int
    """Resident."""
    uss: int
    """Private to it: what its end would give back."""


def footprint(pid: int) -> Footprint:
    """From the kernel's own count, page by page."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {name.rstrip(":"): int(kib) * 1024 for name, kib, *_ in map(str.split, lines)}
    return Footprint(sizes["Rss"], sizes["Private_Clean"] + sizes["Private_Dirty"])


def empty(module: str) -> Footprint:
    actor = empty_actor(module)
    found = footprint(ray.get(actor.pid.remote()))
    ray.kill(actor)
    return found


def trim(_: object) -> bool:
    """Runs in an actor: gives back what its allocator keeps after a burst."""
    return bool(getattr(ctypes.CDLL(None), "malloc_trim", lambda _: False)(0))


def trimmed(live: LiveCluster, name: str) -> Footprint:
    handle = ray.get_actor(f"{live.client.cluster}/{name}", namespace=NAMESPACE)
    ray.get(handle.__ray_call__.remote(trim))
    return footprint(live.pid(name))


def statistics(live: LiveCluster) -> ServiceStatistics:
    actor = ray.get_actor(f"{live.client.cluster}/subscriber/0", namespace=NAMESPACE)
    return msgspec.msgpack.decode(ray.get(actor.statistics.remote()), type=ServiceStatistics)


def subscriber(pods: int, pairs: int) -> list[Result]:
    """With one pod that is silent, or with many that have published."""
    sequences = fleet(pods, pairs) if pairs else []
    with cluster(shards=SHARDS, pods=pods, pods_each=PODS, scorers=1) as live:
        if sequences:
            live.fill(list(events(sequences, 512)))
            wait_until(
                lambda: statistics(live).mirror.events["blocks_stored"] >= pairs_of(sequences), "blocks"
            )
        mirrors = sum(worker.mirror_bytes for worker in statistics(live).mirror.workers)
        found = footprint(live.pid("subscriber/0"))
        kept = found.uss - trimmed(live, "subscriber/0").uss
        others = {kind: footprint(live.pid(name)) for kind, name in OTHERS.items()} if pairs else {}
    held = f"{pods} pods, {pairs_of(sequences) / 1e3:.0f} k blocks" if pairs else "one silent pod"
    results = both(f"actors/subscriber/{pods if pairs else 'idle'}", f"subscriber, {held}", found)
    if pairs:
        row = f"actors/subscriber/{pods}"
        results.append(mib(f"{row}/mirrors", "of it the mirrors, by own count", mirrors))
        results.append(mib(f"{row}/kept", "of it what its allocator keeps, after all came at once", kept))
    for kind, size in others.items():
        results += both(f"actors/{kind}", f"{kind}, {pods} pods, {SHARDS} shards", size)
    return results


OTHERS = {"directory": "directory", "shard": "shard/1-0-0", "scorer": "scorer/0"}


def both(row: str, what: str, size: Footprint) -> list[Result]:
    return [
        mib(f"{row}/rss", f"{what}: resident", size.rss),
        mib(f"{row}/uss", f"{what}: private", size.uss),
    ]


def mib(row: str, what: str, size: int) -> Result:
    return single(row, what, "MiB", size / MIB)


def main() -> None:
    args = arguments(__doc__).parse_args()
    with local_ray():
        results = [
            *both("actors/empty", "a Ray actor that does nothing", empty("")),
            *both("actors/numpy", "that has imported numpy", empty("numpy")),
            *both(
                "actors/imported",
                "that has imported the subscriber's code",
                empty("kvatlas.actors.subscriber.actor"),
            ),
            *subscriber(1, 0),
            *subscriber(PODS, 100_000 if args.quick else 1_000_000),
        ]
    show(results, args.json)


if __name__ == "__main__":
    main()
