"""A prompt that its replica has computed is seen in the index, and no longer counts as work to be done."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest

from kvatlas.cluster.serve.replicas.prefill_watch import PrefillWatch
from kvatlas.index.choosing.chooser import Chooser
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.reading import Asked
from kvatlas.ingest.atlas import Atlas
from kvatlas.ingest.simulator.server import SimulatedServer
from tests.cluster.living_fleet import wait_until

MODEL = "test/model"
PROMPT = list(range(320))


class Rig:
    """Two servers whose events reach an atlas at once, a chooser over it, and a watch."""

    def __init__(self) -> None:
        self.atlas = Atlas()
        self.servers = {name: self._server(name) for name in ("a", "b")}
        for server in self.servers.values():
            server.serve(range(1000, 1032))  # somebody has spoken: model and block size are known
        self.chooser = Chooser(self.atlas, ChoosingConfig(speculative_s=0.0))
        self.watch = PrefillWatch(self.atlas, self.chooser, watched_max=3)

    def _server(self, name: str) -> SimulatedServer:
        numbers = itertools.count()
        topic = f"kv@{name}@{MODEL}".encode()
        return SimulatedServer(
            name, MODEL, publish=lambda payload: self.atlas.ingest(topic, next(numbers), payload)
        )

    def begin(self, request_id: str, prompt: list[int] = PROMPT) -> str:
        pod = self.chooser.choose(prompt, model=MODEL, request_id=request_id).pod
        self.watch.add(request_id, pod, prompt, Asked(model=MODEL))
        return pod

    def prefill_tokens(self) -> float:
        """Still to be prefilled by all workers, as the next choice sees it."""
        self.chooser.choose([1], model=MODEL, request_id="look", reserve=False)
        (receipt,) = self.chooser.receipts("", 1)
        self.chooser.failed("look")
        return sum(one.prefill_tokens for one in receipt.candidates)


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.watch.close()
    rig.atlas.close()


def test_what_the_replica_has_computed_is_no_longer_to_be_prefilled(rig: Rig) -> None:
    pod = rig.begin("r")
    assert rig.prefill_tokens() == len(PROMPT)
    assert rig.watch.statistics().watched == 1
    rig.servers[pod].serve(PROMPT)
    wait_until(lambda: rig.watch.statistics().seen == 1, 60, rig.watch.statistics)
    wait_until(lambda: rig.prefill_tokens() == 0, 60, rig.prefill_tokens)
    assert rig.chooser.completed("r")


def test_the_same_prompt_at_another_replica_does_not_count(rig: Rig) -> None:
    pod = rig.begin("r")
    other = "b" if pod == "a" else "a"
    rig.servers[other].serve(PROMPT)
    rig.begin("later", list(range(2000, 2064)))
    rig.servers[rig.chooser.receipt("later").pod or ""].serve(range(2000, 2064))
    wait_until(lambda: rig.watch.statistics().seen == 1, 60, rig.watch.statistics)
    assert rig.watch.statistics().watched == 1
    assert rig.prefill_tokens() > 0


def test_a_call_that_ends_is_looked_for_no_more(rig: Rig) -> None:
    rig.begin("r")
    rig.watch.forget("r")
    rig.watch.forget("unknown")
    assert rig.watch.statistics().watched == 0
    assert rig.watch.statistics().unseen == 1


def test_a_prompt_without_a_whole_block_is_not_waited_for(rig: Rig) -> None:
    rig.begin("short", [1, 2, 3])
    wait_until(lambda: rig.watch.statistics().unseen == 1, 60, rig.watch.statistics)
    assert rig.watch.statistics().watched == 0


def test_beyond_its_bound_calls_are_counted_and_not_watched(rig: Rig) -> None:
    for number in range(5):
        rig.begin(str(number))
    statistics = rig.watch.statistics()
    assert (statistics.watched, statistics.unseen) == (3, 2)


def test_calls_that_end_at_once_take_no_room_for_long(rig: Rig) -> None:
    for number in range(20):
        rig.begin(str(number))
        rig.watch.forget(str(number))
    assert rig.watch.statistics().unseen == 20
    names = map(str, itertools.count(100))

    def is_watched() -> bool:
        rig.begin(next(names))
        return rig.watch.statistics().watched == 1

    wait_until(is_watched, 60, rig.watch.statistics)


def test_a_call_that_comes_after_a_pause_wakes_it(rig: Rig) -> None:
    for name in ("first", "second"):
        pod = rig.begin(name)
        rig.servers[pod].serve(PROMPT)
        wait_until(lambda: rig.watch.statistics().watched == 0, 60, rig.watch.statistics)
    assert rig.watch.statistics().seen == 2


def test_closing_ends_the_thread_though_calls_are_watched() -> None:
    before = set(threading.enumerate())
    rig = Rig()
    rig.begin("r")
    for _ in range(2):
        rig.watch.close()
    assert set(threading.enumerate()) <= before
