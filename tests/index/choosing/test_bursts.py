"""Bursts: many requests before the first event of any. Chooser and atlas are real, servers are simulated."""

from __future__ import annotations

from collections import Counter

import pytest

from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.ingest.simulator.timed_fleet import Arrival, TimedFleetOptions
from tests.index.choosing.timed_traffic import (
    after,
    at_random,
    busiest_share,
    fleet_of,
    requests_by_pod,
    siblings,
    tokens,
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("over_s", "shared", "own", "event_delay_s"),
    [
        (0.0, 2048, 64, 0.01),
        (0.0, 512, 512, 1.0),
        (0.2, 2048, 64, 1.0),
        (0.2, 512, 512, 0.01),
        (0.2, 8192, 32, 1.0),
        (2.0, 2048, 64, 0.01),
        (2.0, 512, 512, 1.0),
        (2.0, 8192, 32, 0.01),
    ],
)
def test_siblings_spread_evenly_and_no_pod_prefills_their_prefix_more_than_twice(
    over_s: float, shared: int, own: int, event_delay_s: float
) -> None:
    with fleet_of(TimedFleetOptions(blocks=8192, event_delay_s=event_delay_s)) as fleet:
        served = fleet.run(siblings(200, shared, own, over_s=over_s))
        prefilled = Counter(request.pod for request in served if request.cached_tokens < shared)
        assert len(served) == 200
        assert busiest_share(fleet, served) <= 1.3
        assert max(prefilled.values()) <= 2


def test_a_burst_of_several_families_at_once_spreads_and_shares() -> None:
    families = [siblings(40, 1024, 64, over_s=0.3) for _ in range(5)]
    arrivals = sorted((arrival for family in families for arrival in family), key=lambda a: a.at_s)
    with fleet_of(TimedFleetOptions(blocks=8192)) as fleet:
        served = fleet.run(arrivals)
        busy_s = [pod.busy_s for pod in fleet.pods.values()]
        assert max(busy_s) <= 1.2 * sum(busy_s) / len(busy_s)
        assert busiest_share(fleet, served) <= 1.5
        assert sum(request.cached_tokens for request in served) >= 0.85 * 1024 * len(served)


def test_cold_requests_at_one_moment_get_one_pod_after_the_other() -> None:
    with fleet_of(TimedFleetOptions(blocks=8192)) as fleet:
        served = fleet.run([Arrival(0.0, tokens(1000), 20) for _ in range(80)])
        assert set(requests_by_pod(served).values()) == {10}


@pytest.mark.slow
def test_warm_siblings_leave_the_pod_that_holds_their_prefix_when_its_queue_costs_more() -> None:
    with fleet_of(TimedFleetOptions(blocks=8192)) as fleet:
        prefix = tokens(2048)
        fleet.run([Arrival(0.0, prefix, 5)])
        fleet.served.clear()
        served = fleet.run([Arrival(0.0, after(prefix, 256), 50) for _ in range(160)])
        assert busiest_share(fleet, served) <= 1.3
        assert sum(request.cached_tokens < 2048 for request in served) <= 2 * len(fleet.pods)


def test_a_policy_that_only_follows_prefixes_sends_a_burst_to_one_pod() -> None:
    """So that the tests above can fail."""
    with fleet_of(TimedFleetOptions(blocks=8192), ChoosingConfig(policy="longest_prefix")) as fleet:
        served = fleet.run(siblings(150, 2048, 64, over_s=0.2))
        assert len(requests_by_pod(served)) == 1


@pytest.mark.slow
def test_a_prefix_in_fashion_is_shared_by_as_many_pods_as_it_takes() -> None:
    """Nine of ten requests begin alike, for a minute, at two thirds of what the fleet can do."""
    prefix = tokens(4096)
    prompts = [after(prefix, 800) if i % 10 else tokens(4896) for i in range(1500)]
    with fleet_of(TimedFleetOptions(blocks=4096)) as fleet:
        served = fleet.run(at_random(prompts, 25.0))
        assert busiest_share(fleet, served) <= 1.3
        assert sum(request.cached_tokens for request in served) >= 0.7 * 4096 * len(served) * 0.9
