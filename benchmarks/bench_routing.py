"""What choosing is worth: time to first token and reuse by policy, of the same traffic in simulated time."""

from __future__ import annotations

import statistics
import time
from typing import NamedTuple

import numpy as np
from results import Result, arguments, show
from routing_traffic import Traffic, chats, trace

from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.ingest.simulator.timed_fleet import TimedFleet, TimedFleetOptions

PODS = 8
PEER = "routing_policies:DynamoFormula"
POLICIES = ("weighted", PEER, "longest_prefix", "least_loaded", "round_robin", "random")


class Outcome(NamedTuple):
    """What came of one run."""

    ttft_p50_s: float
    ttft_p90_s: float
    ttft_p99_s: float
    total_mean_s: float
    hit_rate: float
    """Share of all prompt tokens that were reused."""
    predicted_share: float
    """Predicted over actual reuse."""
    busiest: float
    """Work of the busiest pod over that of the average one."""


def run(traffic: Traffic, choosing: ChoosingConfig, pods: int = PODS) -> Outcome:
    """All of the traffic under one configuration."""
    options = TimedFleetOptions(
        pods=pods, block_size=traffic.block_size, blocks=traffic.pod_tokens // traffic.block_size + 1
    )
    fleet = TimedFleet(options, choosing)
    try:
        served = fleet.run(traffic.arrivals)
    finally:
        fleet.close()
    assert len(served) == len(traffic.arrivals)
    ttft = np.array([request.ttft_s for request in served])
    busy = [pod.busy_s for pod in fleet.pods.values()]
    cached = sum(request.cached_tokens for request in served)
    p50, p90, p99 = np.quantile(ttft, (0.5, 0.9, 0.99)).tolist()
    return Outcome(
        p50,
        p90,
        p99,
        statistics.mean(request.total_s for request in served),
        cached / sum(request.prompt_tokens for request in served),
        sum(request.predicted_tokens for request in served) / max(cached, 1),
        max(busy) / statistics.mean(busy),
    )


def measure(traffic: Traffic) -> dict[str, Outcome]:
    """By policy's name."""
    print(f"\n{traffic.name}: {len(traffic.arrivals)} requests, {PODS} pods of {traffic.pod_tokens} tokens")
    print(f"{'':16} TTFT p50 ms      p90      p99  total s  reused predicted  busiest")
    outcomes = {}
    for policy in POLICIES:
        begin = time.monotonic()
        o = run(traffic, ChoosingConfig(policy=policy))
        name = policy.partition(":")[0].replace("routing_policies", "dynamo_formula")
        outcomes[name] = o
        print(
            f"{name:16}{o.ttft_p50_s * 1e3:12.0f}{o.ttft_p90_s * 1e3:9.0f}{o.ttft_p99_s * 1e3:9.0f}"
            f"{o.total_mean_s:9.2f}{o.hit_rate:8.1%}{o.predicted_share:10.1%}{o.busiest:9.2f}"
            f"   ({time.monotonic() - begin:.0f} s)",
            flush=True,
        )
    return outcomes


def results(traffic: Traffic, outcomes: dict[str, Outcome]) -> list[Result]:
    """Medians are those over requests; beside weighted stands the peer's formula."""
    rows = []
    for name, outcome in outcomes.items():
        peer = outcomes["dynamo_formula"] if name == "weighted" else None
        for quantile in ("p50", "p90"):
            ms = getattr(outcome, f"ttft_{quantile}_s") * 1e3
            peer_ms = getattr(peer, f"ttft_{quantile}_s") * 1e3 if peer else None
            rows.append(
                Result(
                    row=f"routing/{traffic.name}/{name}/{quantile}",
                    what=f"{traffic.name}: {name}, TTFT {quantile}, {outcome.hit_rate:.0%} reused",
                    unit="ms",
                    median=ms,
                    best=ms,
                    peer_median=peer_ms,
                    peer_best=peer_ms,
                )
            )
    return rows


def main() -> None:
    args = arguments(__doc__).parse_args()
    turns = 1500 if args.quick else 6000
    # The second time there are far more chats than the caches hold, and more work than the pods keep up with.
    traffics = [chats("chats", turns, 187, 45.0), chats("crowded chats", turns, 750, 45.0)]
    recorded = trace(300 if args.quick else 1800)
    if recorded is None:
        print("KVATLAS_SHARED names no folder with the trace: chats only")
    else:
        traffics.append(recorded)
    rows = [row for traffic in traffics for row in results(traffic, measure(traffic))]
    show(rows, args.json)


if __name__ == "__main__":
    main()
