"""The requests of a router, from the first answer to the end of the call."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from kvatlas.cluster.serve.replicas.flights import Flight, Flights


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def loop() -> Any:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def call(loop: asyncio.AbstractEventLoop, internal_id: str = "i") -> Any:
    """Of Serve's pending request, what is looked at."""
    metadata = SimpleNamespace(internal_request_id=internal_id)
    return SimpleNamespace(metadata=metadata, future=loop.create_future())


def test_a_flight_counts_at_its_pod_until_it_ends(loop: asyncio.AbstractEventLoop) -> None:
    flights = Flights(10, 100)
    flight = flights.begin(call(loop), "r", "a")
    assert flights.at("a") == 1
    flights.move(flight, "b")
    assert (flights.at("a"), flights.at("b")) == (0, 1)
    flights.routed(flight)
    assert flights.at("b") == 1
    for _ in range(2):
        flights.end(flight)
        assert (flights.at("b"), len(flights)) == (0, 0)


def test_ids_of_living_flights_are_never_given_again(loop: asyncio.AbstractEventLoop) -> None:
    flights = Flights(10, 100)
    living: list[Flight] = []
    chance = random.Random(5)
    for _ in range(200):
        name = flights.name("same")
        assert name not in {one.request_id for one in living}
        living.append(flights.begin(call(loop), name, "a"))
        while len(living) > 5:
            flights.end(living.pop(chance.randrange(len(living))))


def test_a_completion_ends_the_oldest_of_a_request_at_that_replica(loop: asyncio.AbstractEventLoop) -> None:
    flights = Flights(10, 100)
    refused = flights.begin(call(loop), "r", "a")
    again = flights.begin(call(loop), "r~1", "a")
    elsewhere = flights.begin(call(loop), "r~2", "b")
    assert flights.oldest("i", "b") is elsewhere
    assert flights.oldest("i", "a") is refused
    flights.end(refused)
    assert flights.oldest("i", "a") is again
    assert flights.oldest("i", "c") is None
    assert flights.oldest("other", "a") is None


def test_calls_that_share_an_id_are_told_apart_by_their_metadata(loop: asyncio.AbstractEventLoop) -> None:
    flights = Flights(10, 100)
    first, second = call(loop), call(loop)
    flights.begin(first, "r", "a")
    wanted = flights.begin(second, "r~1", "a")
    assert flights.undecided(second.metadata) is wanted
    second.future.set_result(None)
    assert flights.undecided(second.metadata) is None


def test_only_flights_that_serve_has_not_confirmed_become_overdue(loop: asyncio.AbstractEventLoop) -> None:
    clock = Clock()
    flights = Flights(10, 100, clock)
    running = flights.begin(call(loop), "running", "a")
    flights.routed(running)
    waiting = flights.begin(call(loop), "waiting", "a")
    clock.now_s = 9.9
    assert flights.overdue() == []
    clock.now_s = 10.1
    fresh = flights.begin(call(loop), "fresh", "a")
    assert flights.overdue() == [waiting]
    flights.end(waiting)
    assert flights.overdue() == []
    assert flights.of(fresh.future) is fresh


def test_beyond_their_number_the_oldest_are_overdue(loop: asyncio.AbstractEventLoop) -> None:
    flights = Flights(10, 3)
    all_of_them = [flights.begin(call(loop), str(n), "a") for n in range(5)]
    for flight in all_of_them[1:]:
        flights.routed(flight)
    assert flights.overdue() == all_of_them[:2]


def test_any_sequence_leaves_the_counts_of_what_lives(loop: asyncio.AbstractEventLoop) -> None:
    chance = random.Random(1)
    flights = Flights(10, 1000)
    living: list[Flight] = []
    for _ in range(2000):
        step = chance.random()
        if step < 0.4 or not living:
            pending = call(loop, chance.choice("xyz"))
            living.append(flights.begin(pending, flights.name(chance.choice("rs")), chance.choice("ab")))
        elif step < 0.6:
            flights.move(chance.choice(living), chance.choice("ab"))
        elif step < 0.8:
            flights.routed(chance.choice(living))
        else:
            flights.end(living.pop(chance.randrange(len(living))))
        at = Counter(one.pod for one in living)
        assert (len(flights), flights.at("a"), flights.at("b")) == (len(living), at["a"], at["b"])
        for one in living[:3]:
            assert flights.of(one.future) is one
            assert flights.oldest(one.internal_id, one.pod) is next(
                other for other in living if (other.internal_id, other.pod) == (one.internal_id, one.pod)
            )
