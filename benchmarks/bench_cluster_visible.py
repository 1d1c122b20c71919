"""How soon a reader of a whole cluster sees what was published: 16 pods, 100 batches a second each."""

from __future__ import annotations

from live_cluster import BATCH_BLOCKS, BATCHES_PER_S, cluster, empty_call, local_ray, quantiles, watch
from results import Result, arguments, show
from workload import events, fleet

from kvatlas.cluster.config.ranges import Transport

PODS, SHARDS = 16, 4
_WARM_S = 1
TRANSPORTS: tuple[Transport, ...] = ("zmq", "ray")


def measure(transport: Transport, seconds: float) -> list[Result]:
    rate = PODS * BATCHES_PER_S
    n_batches = int(rate * (seconds + _WARM_S))
    stream = list(events(fleet(PODS, 2 * n_batches * BATCH_BLOCKS), BATCH_BLOCKS))[:n_batches]
    with cluster(shards=SHARDS, pods=PODS, transport=transport) as live:
        watch(live, stream[: rate * _WARM_S], rate)  # what a start costs is not asked
        seen = watch(live, stream[rate * _WARM_S :], rate)
    how = {"zmq": "sockets", "ray": "Ray calls"}[transport]
    what = f"{PODS} pods, {SHARDS} shards, deltas over {how}, publish to score"
    return quantiles(f"visible/{transport}", what, seen)


def main() -> None:
    args = arguments(__doc__).parse_args()
    with local_ray():
        results = [empty_call("visible")]
        for transport in TRANSPORTS:
            results += measure(transport, 2 if args.quick else 10)
    show(results, args.json)


if __name__ == "__main__":
    main()
