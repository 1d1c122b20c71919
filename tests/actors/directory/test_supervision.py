"""What is begun, replaced and ended, by a yard that only notes it."""

from __future__ import annotations

import pytest

from kvatlas.actors.directory.supervision import ActorSpec, Supervision


class NotedYard:
    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def begin(self, spec: ActorSpec) -> None:
        self.calls.append(("begin", spec.name))

    def restart(self, name: str) -> None:
        self.calls.append(("restart", name))

    def end(self, name: str) -> None:
        self.calls.append(("end", name))

    def take(self) -> list[tuple[str, str]]:
        calls, self.calls = self.calls, []
        return calls


class Rig:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.yard = NotedYard()
        self.supervision = Supervision(self.yard, 10.0, lambda: self.now_s)

    def step(self, *specs: ActorSpec, **heard_s: float) -> list[tuple[str, str]]:
        self.supervision.step({spec.name: spec for spec in specs}, heard_s)
        return self.yard.take()


@pytest.fixture
def rig() -> Rig:
    return Rig()


SHARD = ActorSpec("shard", "s", (1, 0, 0))
SCORER = ActorSpec("scorer", "r", (0,))


def test_what_is_wanted_is_begun_once(rig: Rig) -> None:
    assert rig.step(SHARD, SCORER) == [("begin", "s"), ("begin", "r")]
    assert rig.step(SHARD, SCORER) == []


def test_a_silent_process_is_replaced_later_each_time_until_it_speaks(rig: Rig) -> None:
    rig.step(SHARD)
    replaced = []
    for _ in range(2000):
        rig.now_s += 0.5
        if calls := rig.step(SHARD):
            replaced.append((rig.now_s, calls))
    again = [("end", "s"), ("begin", "s")]
    assert replaced[:4] == [(10.5, [("restart", "s")]), (31.0, again), (71.5, again), (152.0, again)]
    rig.step(SHARD, s=rig.now_s)
    rig.now_s += 10.5
    assert rig.step(SHARD, s=rig.now_s - 10.5) == [("restart", "s")]


def test_who_speaks_is_left_alone_and_so_is_who_never_does(rig: Rig) -> None:
    rig.step(SHARD, SCORER)
    for _ in range(100):
        rig.now_s += 1.0
        assert rig.step(SHARD, SCORER, s=rig.now_s - 1.0) == []


def test_what_is_bound_to_a_node_is_begun_anew_on_another(rig: Rig) -> None:
    bound = SHARD._replace(node="n1", is_bound=True)
    rig.step(bound)
    assert rig.step(bound._replace(node="n2")) == [("end", "s"), ("begin", "s")]
    assert rig.step(bound._replace(node="n2")) == []


def test_what_was_begun_before_is_adopted_and_ended_where_nobody_wants_it(rig: Rig) -> None:
    rig.supervision.adopt(["s", "old"])
    assert rig.step(SHARD) == []
    rig.now_s += 4.0
    assert rig.step(SHARD, s=rig.now_s) == [("end", "old")]


def test_what_is_not_wanted_is_ended_after_it_could_end_itself(rig: Rig) -> None:
    rig.step(SHARD)
    assert rig.step() == []
    rig.now_s += 2.0
    assert rig.step() == []
    rig.now_s += 2.0
    assert rig.step() == [("end", "s")]
    assert rig.step(SHARD) == [("begin", "s")]
