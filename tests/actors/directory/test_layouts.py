"""Layouts whose processes come, die, stand still, and are superseded."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kvatlas.actors.directory.layouts import Generation, Layouts, Shape, Slot
from kvatlas.actors.directory.placement import Placement
from kvatlas.actors.orders import Replica, ShardAsks, ShardReport

FILL_S = 30.0
LEAVE_S = 12.0


def generation(number: int, n_shards: int) -> Generation:
    shape = Shape(n_shards)
    return Generation(number, shape, Placement((), {}).slots(number, shape))


def asks(slot: Slot) -> ShardAsks:
    return ShardAsks(layout=slot.layout, shard=slot.shard, replica=slot.replica, actor="", node_id="n")


def report(slot: Slot, incarnation: int) -> ShardReport:
    replica = Replica(
        shard=slot.shard, replica=slot.replica, incarnation=incarnation, node_id="n", endpoint="tcp://x"
    )
    return ShardReport(layout=slot.layout, replica=replica)


class LayoutsOfProcesses(RuleBasedStateMachine):
    """Every process that ever enlisted goes on reporting."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.last_layout = self.last_incarnation = 0
        self.processes: dict[int, Slot] = {}
        self.committed = [self.issue()]
        self.layouts = self.around(generation(self.committed[0], 2))

    def around(self, serving: Generation) -> Layouts:
        return Layouts(
            serving,
            issue_incarnation=self.issue_incarnation,
            leave_s=LEAVE_S,
            clock_s=lambda: self.now_s,
        )

    def issue(self) -> int:
        self.last_layout += 1
        return self.last_layout

    def issue_incarnation(self) -> int:
        self.last_incarnation += 1
        return self.last_incarnation

    @rule(data=st.data())
    def enlist(self, data: st.DataObject) -> None:
        slots = [Slot(layout, shard, 0) for layout in range(1, self.last_layout + 1) for shard in range(3)]
        slot = data.draw(st.sampled_from(slots))
        wanted = any(slot in one.slots for one in self.layouts.all)
        incarnation = self.layouts.enlist(asks(slot))
        assert (incarnation is not None) == wanted
        if incarnation is not None:
            self.processes[incarnation] = slot

    @precondition(lambda self: self.processes)
    @rule(data=st.data())
    def report(self, data: st.DataObject) -> None:
        incarnation, slot = data.draw(st.sampled_from(sorted(self.processes.items())))
        known = [one.holders.get(slot) for one in self.layouts.all if slot in one.slots]
        heard = self.layouts.hear(report(slot, incarnation))
        newer = bool(known and known[0] is not None and known[0].incarnation > incarnation)
        assert (heard is None) == (not known or newer)

    @rule(n_shards=st.integers(1, 3))
    def build(self, n_shards: int) -> None:
        self.layouts.build(generation(self.issue(), n_shards))

    @rule(is_filled=st.booleans())
    def commit(self, is_filled: bool) -> None:
        if not self.layouts.can_commit(is_filled, FILL_S):
            return
        building = self.layouts.building
        assert building is not None and building.served_s is not None
        assert {replica.shard for replica in building.replicas} == set(range(building.shape.n_shards))
        is_up = len(building.replicas) == len(building.slots)
        assert (is_filled and is_up) or self.now_s - building.served_s > FILL_S
        self.committed.append(building.number)
        self.layouts.commit()

    @rule()
    def lose_the_directory(self) -> None:
        serving = self.layouts.serving
        self.layouts = self.around(Generation(serving.number, serving.shape, dict(serving.slots)))

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.layouts.drop_silent(3.0)
        self.layouts.drop_left()

    @invariant()
    def the_committed_layout_serves(self) -> None:
        assert self.layouts.serving.number == self.committed[-1]

    @invariant()
    def a_layout_that_was_left_is_kept_just_long_enough(self) -> None:
        for left in self.layouts.leaving:
            assert left.number in self.committed[:-1]

    @invariant()
    def replicas_shown_have_spoken_lately_and_each_slot_has_one(self) -> None:
        for one in self.layouts.all:
            assert set(one.holders) <= set(one.slots)
            assert len({replica.incarnation for replica in one.replicas}) == len(one.replicas)


TestLayouts = pytest.mark.slow(LayoutsOfProcesses.TestCase)


def placement(*nodes: str, chosen: tuple[str, ...] = ()) -> Placement:
    return Placement(chosen, {node: f"10.0.0.{number}" for number, node in enumerate(nodes)})


def test_replicas_stay_where_they_are_when_a_node_comes() -> None:
    shape = Shape(2, replicas_per_node=1)
    before = placement("a", "b").slots(1, shape)
    after = placement("a", "b", "c").slots(1, shape, before)
    assert before.items() <= after.items()
    assert sorted(after.values()) == ["a", "a", "b", "b", "c", "c"]


def test_a_slot_of_a_node_that_left_is_not_given_to_another_at_once() -> None:
    shape = Shape(1, replicas_per_node=1)
    before = placement("a", "b").slots(1, shape)
    after = placement("a", "c").slots(1, shape, before)
    (gone,) = (slot for slot, node in before.items() if node == "b")
    assert gone not in after and sorted(after.values()) == ["a", "c"]


def test_nodes_are_chosen_from_those_alive_less_those_to_be_left() -> None:
    assert placement("b", "a", "c").nodes_for(Shape(1, 0, ("c",))) == ("a", "b")
    assert placement("b", "a", "c", chosen=("c", "x")).nodes_for(Shape(1)) == ("c",)


def test_one_of_each_shard_is_dealt_out_where_nodes_are_chosen() -> None:
    dealt = placement("a", "b", "c").slots(1, Shape(3, 0, ("c",)))
    assert list(dealt.values()) == ["a", "b", "a"]
    moved = placement("b", "c").slots(1, Shape(3, 0, ("c",)), dealt)
    assert list(moved.values()) == ["b", "b", "b"]
    assert set(placement("a", "b").slots(1, Shape(3)).values()) == {""}


def test_a_process_on_a_node_that_left_is_not_heard_any_more() -> None:
    shape = Shape(2, 0, ("c",))
    one = Generation(1, shape, placement("a", "b").slots(1, shape))
    layouts = Layouts(one, issue_incarnation=iter(range(1, 9)).__next__, leave_s=1.0, clock_s=lambda: 0.0)
    for slot in one.slots:
        layouts.hear(report(slot, layouts.enlist(asks(slot)) or 0))
    assert one.move(placement("b").slots(1, shape, one.slots))
    assert [replica.shard for replica in one.replicas] == [1]
    assert not one.move(dict(one.slots))
