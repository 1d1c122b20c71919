"""Many threads, and tasks that are cancelled anywhere: at the end nobody has anything to do."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any, cast

import numpy as np
import pytest

from kvatlas.index.choosing.chooser import Chooser
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.errors import InputError, KvatlasError, NoWorkerError
from kvatlas.index.prompts import Tokenized
from tests.index.choosing.small_fleet import Clock, SmallFleet, prompt

THREADS = 16
EACH = 150
PODS = ("a", "b", "c", "d")


class Storm:
    """One thread's part: everything a router can do, in any order, with ids that others use too."""

    def __init__(self, fleet: SmallFleet, number: int, faults: list[BaseException]) -> None:
        self._chooser = fleet.chooser
        self._rng = random.Random(number)
        self._faults = faults

    def run(self) -> None:
        try:
            for _ in range(EACH):
                self.step()
        except BaseException as error:
            self._faults.append(error)
            raise

    def step(self) -> None:
        rng, chooser = self._rng, self._chooser
        name = f"r{rng.randrange(40)}"
        tokens = prompt(rng.randrange(1, 9), rng.randrange(4))
        kind = rng.randrange(8)
        try:
            if kind <= 2:
                chooser.choose(tokens, model="m", request_id=name, reserve=kind > 0)
            elif kind == 3:
                chooser.another(name, without=rng.sample(PODS, rng.randrange(5)))
            elif kind == 4:
                chooser.rank(tokens, model="m", request_id=name)
                chooser.routed(name, rng.choice(PODS))
            elif kind == 5:
                chooser.adopt(name, rng.choice(PODS), 0, model="m", prompt_tokens=100)
            elif kind == 6:
                chooser.prefill_done(name)
                chooser.produced(name, 5)
            else:
                chooser.completed(name, cached_tokens=3) if rng.random() < 0.5 else chooser.failed(name)
        except (InputError, NoWorkerError):
            assert kind == 3


def storm(fleet: SmallFleet, beside: Any = None) -> None:
    faults: list[BaseException] = []
    threads = [threading.Thread(target=Storm(fleet, n, faults).run) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    while beside is not None and any(thread.is_alive() for thread in threads):
        beside()
    for thread in threads:
        thread.join()
    assert not faults


def nothing_is_left(fleet: SmallFleet) -> bool:
    statistics = fleet.chooser.statistics()
    return (statistics.in_flight, statistics.loads["reservations"], len(fleet.chooser.loads.own()[0])) == (
        0,
        0,
        0,
    )


@pytest.mark.slow
@pytest.mark.parametrize("bound", [65_536, 8])
def test_after_a_storm_and_the_end_of_all_requests_every_load_is_exactly_nothing(bound: int) -> None:
    with SmallFleet(PODS, ChoosingConfig(reservations_max=bound)) as fleet:
        storm(fleet)
        for n in range(40):
            while fleet.chooser.completed(f"r{n}"):
                pass
        assert nothing_is_left(fleet)
        assert fleet.chooser.loads.own()[1].sum() == fleet.chooser.loads.own()[2].sum() == 0


@pytest.mark.slow
def test_after_a_storm_that_nobody_ends_silence_ends_it() -> None:
    with SmallFleet(PODS, ChoosingConfig(reservation_s=30.0)) as fleet:
        storm(fleet)
        fleet.clock.now_s += 31
        fleet.chooser.tidy()
        assert nothing_is_left(fleet)


@pytest.mark.slow
def test_pods_that_leave_and_come_back_during_a_storm_leave_nothing_either() -> None:
    with SmallFleet(PODS, ChoosingConfig(reservation_s=1000.0)) as fleet:
        turn = iter(range(1 << 30))

        def come_and_go() -> None:
            pod = PODS[next(turn) % 3]  # one stays
            fleet.atlas.set_serving(pod, None)
            fleet.atlas.remove_pod(pod)
            for _ in range(3):
                fleet.clock.now_s += 4.0
                fleet.chooser.tidy()
            fleet.serve(pod)

        storm(fleet, come_and_go)
        fleet.clock.now_s += 2000
        fleet.chooser.tidy()
        assert nothing_is_left(fleet)
        fleet.clock.now_s += 2
        for pod in PODS:  # each can be chosen again, whatever was remembered of it
            assert fleet.chooser.choose(prompt(2), model="m", pods=[pod]).is_reserved
            assert fleet.load(pod)[2] == 1


class Gates:
    """Tokenizers and an index that wait, each, until they are let go on."""

    def __init__(self, fleet: SmallFleet) -> None:
        self._atlas = fleet.atlas
        self.gates = [asyncio.Event(), asyncio.Event()]
        self.reached = [asyncio.Event(), asyncio.Event()]

    async def _wait(self, at: int) -> None:
        self.reached[at].set()
        await self.gates[at].wait()

    def tokenize(self, model: str, **text: Any) -> Tokenized:
        raise AssertionError("it is asked without waiting")

    async def tokenize_async(self, model: str, **text: Any) -> Tokenized:
        await self._wait(0)

        class Told:
            token_ids = np.array(prompt(4), np.uint32)
            features = ()

        return Told()

    async def look_async(self, token_ids: Any, **asked: Any) -> Any:
        await self._wait(1)
        return self._atlas.look(token_ids, **asked)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._atlas, name)


@pytest.mark.parametrize("at", [0, 1])
def test_a_choice_that_is_cancelled_while_it_waits_reserves_nothing(at: int) -> None:
    async def scenario(fleet: SmallFleet) -> None:
        gates = Gates(fleet)
        chooser = Chooser(cast(Any, gates), tokenizers=gates, clock_s=Clock())
        for gate in gates.gates[:at]:
            gate.set()
        choosing = [
            asyncio.ensure_future(chooser.choose_async(prompt="hello", model="m", request_id=str(n)))
            for n in range(20)
        ]
        await gates.reached[at].wait()
        for one in choosing[:19]:
            one.cancel()
        await asyncio.gather(*choosing[:19], return_exceptions=True)
        for gate in gates.gates:
            gate.set()
        assert (await choosing[19]).is_reserved
        assert chooser.statistics().in_flight == chooser.statistics().loads["reservations"] == 1
        assert chooser.failed("19") and len(chooser.loads.own()[0]) == 0

    with SmallFleet(PODS) as fleet:
        asyncio.run(scenario(fleet))


def test_an_index_that_fails_while_it_is_asked_reserves_and_keeps_nothing() -> None:
    with SmallFleet(PODS) as fleet:
        fleet.chooser.choose(prompt(4), model="m", request_id="x")
        look = fleet.atlas.look

        def broken(*_: Any, **__: Any) -> Any:
            raise KvatlasError("the shards are gone")

        fleet.atlas.look = broken  # type: ignore[method-assign]
        with pytest.raises(KvatlasError, match="shards"):
            fleet.chooser.choose(prompt(4), model="m")
        with pytest.raises(KvatlasError, match="shards"):
            fleet.chooser.another("x", without=["a"])
        fleet.atlas.look = look  # type: ignore[method-assign]
        assert nothing_is_left(fleet)
