"""How a fleet fares under the default policy: a real chooser and atlas, servers in simulated time."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pytest

from kvatlas.cluster.demo.traffic import TrafficConfig, generate_turns
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.ingest.simulator.timed_fleet import Arrival, Served, TimedFleet, TimedFleetOptions
from kvatlas.ingest.simulator.timed_server import Pace
from tests.index.choosing.timed_traffic import at_random, fleet_of, requests_by_pod, tokens


def chat_arrivals(turns: int, per_s: float, *, with_sessions: bool) -> list[Arrival]:
    """Turns of many chats; each prompt begins with all that its chat has said."""
    config = TrafficConfig(turns=turns, open_chats=60, system_prompts=8, system_prompt_tokens=1024)
    gaps = np.random.default_rng(3).exponential(1 / per_s, turns)
    return [
        Arrival(
            at_s, turn.prompt, len(turn.answer), f"{turn.chat}" if with_sessions else "", turn.answer.tolist()
        )
        for at_s, turn in zip(np.cumsum(gaps).tolist(), generate_turns(config), strict=True)
    ]


def stayed_share(served: list[Served], arrivals: list[Arrival]) -> float:
    """Of later turns: those that went where the turn before went."""
    pod_of = {request.arrived_s: request.pod for request in served}
    began_s = min(pod_of) - arrivals[0].at_s
    pods: dict[str, list[str]] = defaultdict(list)
    for arrival in arrivals:
        pods[arrival.session].append(pod_of[began_s + arrival.at_s])
    pairs = [pair for turns in pods.values() for pair in itertools.pairwise(turns)]
    return sum(before == now for before, now in pairs) / len(pairs)


def hit_rate(served: list[Served]) -> float:
    return sum(request.cached_tokens for request in served) / sum(request.prompt_tokens for request in served)


def run_chats(options: TimedFleetOptions, choosing: ChoosingConfig, per_s: float = 15.0) -> list[Served]:
    with fleet_of(options, choosing) as fleet:
        return fleet.run(chat_arrivals(600, per_s, with_sessions=False))


@pytest.mark.slow
def test_chats_stay_where_their_history_is() -> None:
    options = TimedFleetOptions(pods=6, blocks=4096)
    arrivals = chat_arrivals(600, 10.0, with_sessions=True)
    with fleet_of(options) as fleet:
        served = fleet.run(arrivals)
        assert stayed_share(served, arrivals) >= 0.9
        assert hit_rate(served) >= 0.75


@pytest.mark.slow
def test_what_is_predicted_is_what_is_reused() -> None:
    served = run_chats(TimedFleetOptions(pods=6, blocks=4096), ChoosingConfig())
    exact = sum(request.cached_tokens == request.predicted_tokens for request in served)
    assert exact >= 0.95 * len(served)


@pytest.mark.slow
def test_by_prefix_more_is_reused_than_round_robin_and_first_tokens_come_sooner() -> None:
    options = TimedFleetOptions(pods=6, blocks=2048)
    ours = run_chats(options, ChoosingConfig(), per_s=25.0)
    others = run_chats(options, ChoosingConfig(policy="round_robin"), per_s=25.0)
    assert hit_rate(ours) > hit_rate(others) + 0.1
    assert np.quantile([r.ttft_s for r in ours], 0.9) < np.quantile([r.ttft_s for r in others], 0.9)


@pytest.mark.slow
def test_chats_stay_where_they_were_sent_when_no_pod_publishes_events() -> None:
    """By routing history alone, in keys of its own: nobody has told the model's block size."""
    names = [f"pod{number}" for number in range(6)]
    blind = run_chats(TimedFleetOptions(pods=6, blocks=4096, without_events=names), ChoosingConfig())
    blindly = run_chats(
        TimedFleetOptions(pods=6, blocks=4096, without_events=names), ChoosingConfig(policy="least_loaded")
    )
    assert hit_rate(blind) > hit_rate(blindly) + 0.1


@pytest.mark.slow
def test_pods_without_events_beside_others_get_their_share_and_their_prefixes_back() -> None:
    options = TimedFleetOptions(pods=6, blocks=4096, without_events=["pod0", "pod1", "pod2"])
    served = run_chats(options, ChoosingConfig())
    without = [request for request in served if request.pod in options.without_events]
    assert 0.25 * len(served) <= len(without) <= 0.75 * len(served)
    assert hit_rate(without) >= 0.6


@pytest.mark.slow
@pytest.mark.parametrize("slowness", [3, 8])
def test_a_slow_pod_gets_fewer_requests_and_the_tail_does_not_wait_for_it(slowness: int) -> None:
    slow = Pace(prefill_tokens_per_s=8000 / slowness, step_s=0.015 * slowness)
    options = TimedFleetOptions(pods=4, blocks=4096, paces={"pod2": slow})
    arrivals = at_random((tokens(2000) for _ in range(800)), 8.0, output=60)
    with fleet_of(options) as fleet:
        served = fleet.run(arrivals)
    by_pod = requests_by_pod(served)
    others = np.mean([by_pod[pod] for pod in ("pod0", "pod1", "pod3")])
    assert by_pod["pod2"] <= 1.6 * others / slowness
    late = [request for request in served if request.arrived_s > served[0].arrived_s + 20]
    assert np.quantile([request.ttft_s for request in late], 0.9) <= 1.5


def test_a_session_prefers_its_pod_where_nothing_else_speaks_for_one() -> None:
    """Prompts that share nothing, one after the other: without a session any pod would do."""
    options = TimedFleetOptions(pods=6, blocks=4096)
    with fleet_of(options) as fleet:
        served = fleet.run([Arrival(2.0 * i, tokens(600), 10, "session") for i in range(20)])
    assert len(requests_by_pod(served)) == 1


@pytest.mark.slow
def test_a_session_leaves_its_pod_when_that_is_busy() -> None:
    """All at once: its bonus is worth less than a queue."""
    with fleet_of(TimedFleetOptions(pods=6, blocks=4096)) as fleet:
        served = fleet.run([Arrival(0.0, tokens(600), 10, "session") for _ in range(60)])
        assert max(requests_by_pod(served).values()) <= 13


def fill(fleet: TimedFleet, requests: int) -> None:
    fleet.run([Arrival(0.0, tokens(100), 40) for _ in range(requests)])


@pytest.mark.slow
def test_more_than_a_fleet_takes_is_told_to_come_later_and_all_of_it_is_served_in_the_end() -> None:
    options = TimedFleetOptions(pods=2, blocks=4096, pace=Pace(requests_max=4))
    with fleet_of(options, ChoosingConfig(queue_requests_max=2)) as fleet:
        fill(fleet, 60)
        assert fleet.refused > 0
        assert len(fleet.served) == 60
        fleet.refused = 0
        fill(fleet, 12)
        assert fleet.refused == 0
