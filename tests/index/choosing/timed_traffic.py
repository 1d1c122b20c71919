"""Prompts and arrivals for fleets in simulated time."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.ingest.simulator.timed_fleet import Arrival, Served, TimedFleet, TimedFleetOptions

BLOCK = 16
_seeds = itertools.count(1)


def tokens(count: int) -> npt.NDArray[np.uint32]:
    """Never the same ones twice."""
    return np.random.default_rng(next(_seeds)).integers(0, 100_000, count, dtype=np.uint32)


def after(prefix: npt.NDArray[np.uint32], count: int) -> npt.NDArray[np.uint32]:
    """The prefix, and so many tokens of the request's own."""
    return np.concatenate([prefix, tokens(count)])


def siblings(count: int, shared: int, own: int, *, over_s: float, output: int = 50) -> list[Arrival]:
    """Requests with one prefix, evenly over so many seconds."""
    prefix = tokens(shared)
    return [Arrival(over_s * i / count, after(prefix, own), output) for i in range(count)]


def at_random(prompts: Iterable[npt.NDArray[np.uint32]], per_s: float, output: int = 100) -> list[Arrival]:
    """So many a second, on average."""
    rng = np.random.default_rng(7)
    at_s, arrivals = 0.0, []
    for prompt in prompts:
        at_s += float(rng.exponential(1 / per_s))
        arrivals.append(Arrival(at_s, prompt, output))
    return arrivals


@contextmanager
def fleet_of(
    options: TimedFleetOptions | None = None, choosing: ChoosingConfig | None = None
) -> Iterator[TimedFleet]:
    fleet = TimedFleet(options or TimedFleetOptions(), choosing or ChoosingConfig())
    try:
        yield fleet
    finally:
        fleet.close()


def requests_by_pod(served: Sequence[Served]) -> Counter[str]:
    return Counter(request.pod for request in served)


def busiest_share(fleet: TimedFleet, served: Sequence[Served]) -> float:
    """Requests of the pod with most of them, over those of an even spread."""
    return max(requests_by_pod(served).values()) * len(fleet.pods) / len(served)
