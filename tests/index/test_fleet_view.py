"""Parts of several writers, put together as one fleet."""

from __future__ import annotations

import logging

import msgspec
import numpy as np
import pytest

from kvatlas.index._native import Index
from kvatlas.index.fleet_view import FleetView, degraded_part
from kvatlas.index.groups import Group, GroupKind
from kvatlas.index.shards import ShardedIndex
from kvatlas.index.view import FleetPart, WorkerView
from tests.models.table import ADD, Record, delta


def worker(number: int, pod: str, model: str = "m", **more: object) -> WorkerView:
    fields = {"rank": 0, "groups": (Group(number),), "state": "EXACT"} | more
    return WorkerView(number=number, pod=pod, model=model, **fields)  # type: ignore[arg-type]


def part(*workers: WorkerView, **more: object) -> FleetPart:
    return FleetPart(workers=workers, **({"block_sizes": {"m": 16}} | more))  # type: ignore[arg-type]


def test_workers_of_all_parts_are_matched_by_their_lanes() -> None:
    fleet = FleetView.of([part(worker(1, "a")), part(worker(4, "b"))])
    index = ShardedIndex()
    table = index.tables[0]
    table.apply(delta([Record(ADD, 1, 1, (10, 11)), Record(ADD, 4, 1, (10,))]))
    found = Index([table], fleet.roster).match(np.array([10, 11], np.uint64))
    assert dict(zip(found[0].tolist(), found[1].tolist(), strict=True)) == {1: 2, 4: 1}
    assert fleet.names == {1: ("a", 0), 4: ("b", 0)}
    index.close()


def test_the_smallest_known_block_size_counts_and_none_where_nobody_knows() -> None:
    sizes = [{"m": 0, "n": 0}, {"m": 32}, {"m": 16, "far": 5000}]
    fleet = FleetView.of([part(block_sizes=told) for told in sizes])
    assert {name: model.block_size for name, model in fleet.models.items()} == {"m": 16, "n": 0, "far": 0}
    assert fleet.models["m"].keyspace is not None
    assert fleet.models["n"].keyspace is None


def test_a_store_is_meant_as_the_worker_s_own_writer_knows_it_else_as_another_does() -> None:
    mine = part(worker(1, "a", stores=("nfs", "far")), stores={"nfs": 7})
    other = part(worker(2, "b", stores=("nfs",)), stores={"nfs": 8, "far": 9})
    fleet = FleetView.of([mine, other])
    index = ShardedIndex()
    index.tables[0].apply(
        delta([Record(ADD, 7, 8, (1,)), Record(ADD, 9, 8, (1, 2)), Record(ADD, 8, 8, (1, 2, 3))])
    )
    assert stored_blocks(index, fleet) == {1: 2, 2: 3}
    index.close()


def stored_blocks(index: ShardedIndex, fleet: FleetView) -> dict[int, int]:
    found = Index(index.tables, fleet.roster).match(np.array([1, 2, 3], np.uint64))
    return dict(zip(found[0].tolist(), found[1].tolist(), strict=True))


def test_of_two_that_claim_a_number_the_later_one_is_believed() -> None:
    fleet = FleetView.of([part(worker(1, "old")), part(worker(1, "new"))])
    assert fleet.names == {1: ("new", 0)}


def test_only_the_pods_asked_for_and_only_of_the_model_are_allowed() -> None:
    told = part(worker(0, "a"), worker(1, "a", rank=1), worker(2, "b"), worker(3, "a", model="n"))
    fleet = FleetView.of([told])
    assert fleet.allowed("m", None) == bytes([1, 1, 1, 0])
    assert fleet.allowed("m", ["a", "nobody"]) == bytes([1, 1, 0, 0])
    assert fleet.allowed("m", "b") == bytes([0, 0, 1, 0])
    assert fleet.allowed("other", None) == bytes(4)
    assert FleetView.of([]).allowed("m", None) == b""


def test_a_degraded_fleet_claims_nothing_but_matches_the_same() -> None:
    fleet = FleetView.of([part(worker(1, "a", doubts=("before",)), worker(2, "b", state="BLIND"))])
    doubted = fleet.degraded("too old")
    assert {view.pod: view.state for view in doubted.workers()} == {"a": "DEGRADED", "b": "BLIND"}
    assert doubted.truths[1].doubts == ("too old", "before")
    assert doubted.roster is fleet.roster
    assert degraded_part(part(worker(1, "a")), "gone").workers[0].doubts == ("gone",)


def test_lanes_have_names_by_worker_and_store() -> None:
    groups = (Group(4), Group(5, GroupKind.SLIDING_WINDOW, 32))
    fleet = FleetView.of([part(worker(1, "a", groups=groups), stores={"nfs": 9})])
    assert fleet.lane_names == {4: ("a", 0, 0), 5: ("a", 0, 1), 9: "nfs"}


def test_the_roster_is_used_again_while_nothing_that_matches_has_changed() -> None:
    told = part(worker(1, "a"))
    first = FleetView.of([told])
    doubted = FleetView.of([degraded_part(told, "gone")], previous=first)
    assert doubted.roster is first.roster
    groups = msgspec.structs.replace(told.workers[0], groups=(Group(2),))
    assert FleetView.of([part(groups)], previous=doubted).roster is not first.roster


def test_a_worker_that_this_release_cannot_match_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    strange = worker(1, "a", groups=tuple(Group(lane) for lane in range(100, 170)))
    with caplog.at_level(logging.WARNING):
        fleet = FleetView.of([part(strange, worker(2, "b"))])
    assert "worker 1 cannot be matched" in caplog.text
    assert set(fleet.names) == {1, 2}
