"""Threads that choose and end requests in one book; the thread sanitizer runs this too."""

from __future__ import annotations

import random
import threading

import numpy as np
import pytest

from tests.index.choosing.native.fleets import SmallFleet

pytestmark = pytest.mark.native

WORKERS, THREADS, REQUESTS = 8, 6, 400


def run(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_burst_of_threads_never_sees_the_same_load() -> None:
    """As many equal requests as workers, times ten: each gets exactly ten."""
    fleet = SmallFleet(WORKERS, reservations_max=WORKERS * 10)
    start = threading.Barrier(WORKERS)
    rows: list[int] = []

    def burst(thread: int) -> None:
        start.wait()
        for n in range(10):
            rows.append(fleet.choose(100, request_id=f"{thread}.{n}").row)

    run([threading.Thread(target=burst, args=(thread,)) for thread in range(WORKERS)])
    assert np.bincount(rows).tolist() == [10] * WORKERS


def test_no_reservation_is_lost_and_loads_are_the_sum_of_what_is_left() -> None:
    fleet = SmallFleet(WORKERS, reservations_max=100_000)
    left: dict[int, dict[str, tuple[int, int, int]]] = {}
    failed: list[BaseException] = []

    def live(thread: int) -> None:
        rng = random.Random(thread)
        alive: dict[str, tuple[int, int, int]] = {}
        try:
            for n in range(REQUESTS):
                name, prompt = f"{thread}.{n}", rng.randrange(1, 2000)
                decision = fleet.choose(prompt, request_id=name, output_tokens=5, now_s=float(n))
                assert decision.is_reserved
                alive[name] = (decision.row, prompt, prompt + 5)
                if rng.random() < 0.3:
                    assert fleet.book.prefill_done(name, float(n))
                    alive[name] = (decision.row, 0, prompt + 5)
                if rng.random() < 0.7:
                    gone = rng.choice(list(alive))
                    del alive[gone]
                    end = rng.choice([fleet.book.completed, fleet.book.failed])
                    assert end(gone, float(n)) is not None
        except BaseException as error:
            failed.append(error)
        left[thread] = alive

    def share() -> None:
        router = threading.get_ident()
        column = np.zeros(WORKERS, np.uint32)
        slots = np.arange(WORKERS, dtype=np.uint32)
        for n in range(REQUESTS):
            fleet.book.changed()
            fleet.book.own()
            fleet.book.set_remote(
                router, slots, np.full(WORKERS, n * 1.0), np.zeros(WORKERS), column, n % 2 == 0
            )
            fleet.book.expire(0.0, 1e6)
            fleet.book.snapshot(fleet.candidates, float(n))
        fleet.book.drop_remote(router)

    run(
        [threading.Thread(target=live, args=(thread,)) for thread in range(THREADS)]
        + [threading.Thread(target=share) for _ in range(2)]
    )
    assert not failed
    alive = [request for requests in left.values() for request in requests.values()]
    for row, load in enumerate(fleet.loads()):
        mine = [request for request in alive if request[0] == row]
        assert load == (sum(r[1] for r in mine), sum(r[2] for r in mine), len(mine))
    assert fleet.book.statistics()["reservations"] == len(alive)


def test_pods_that_come_and_go_meanwhile_lose_only_their_own() -> None:
    fleet = SmallFleet(WORKERS, reservations_max=100_000)
    done = threading.Event()
    ended: list[str] = []

    def churn() -> None:
        while not done.is_set():
            ended.extend(fleet.book.forget("pod0"))
            fleet.book.slot("pod0", 0)

    chosen: dict[str, int] = {}

    def ask(thread: int) -> None:
        for n in range(REQUESTS):
            name = f"{thread}.{n}"
            decision = fleet.choose(10, request_id=name)
            if decision.is_reserved:
                chosen[name] = decision.row

    churning = threading.Thread(target=churn)
    churning.start()
    run([threading.Thread(target=ask, args=(thread,)) for thread in range(THREADS)])
    done.set()
    churning.join()
    ended.extend(fleet.book.forget("pod0"))
    assert sorted(ended) == sorted(name for name, row in chosen.items() if row == 0)
    assert fleet.book.statistics()["reservations"] == sum(row != 0 for row in chosen.values())
