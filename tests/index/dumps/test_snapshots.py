"""Snapshots: one instant over all tables, while they are written, grown, replaced and read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from kvatlas.index._native import Index, Roster, Snapshot, Table, load_content, snapshot
from kvatlas.index.errors import DumpError, InputError, TableFileError
from kvatlas.index.shards import ShardedIndex
from tests.index.dumps.worlds import added, apply_all, filled, held_by, segment_keys
from tests.models.table import ADD, CLEAR_LANE, REMOVE, Record, delta

pytestmark = pytest.mark.native


@contextmanager
def running(*loops: Callable[[threading.Event], None]) -> Iterator[threading.Event]:
    """Threads that go on until the block ends. Their errors are raised here."""
    over, errors = threading.Event(), []

    def run(loop: Callable[[threading.Event], None]) -> None:
        try:
            loop(over)
        except BaseException as error:
            errors.append(error)
            over.set()

    threads = [threading.Thread(target=run, args=(loop,)) for loop in loops]
    for thread in threads:
        thread.start()
    try:
        yield over
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not errors, errors


def counts(snapshots: list[Snapshot]) -> list[int]:
    return [one.entries for one in snapshots]


def test_a_snapshot_of_two_tables_is_of_one_instant_while_both_are_written_and_grow() -> None:
    """The writer adds each block to the first table, then to the second: never ahead, nor two behind."""
    tables = [Table(), Table()]
    started = threading.Event()

    def write(over: threading.Event) -> None:
        for key in range(1, 1 << 20):
            if over.is_set():
                return
            for table in tables:
                table.apply(delta([Record(ADD, 0, 1, (key,), key // 128)]))
            if key == 100:
                started.set()

    seen: list[list[int]] = []
    with running(write) as over:
        started.wait()
        while not over.is_set() and (not seen or seen[-1][0] < 3000):
            seen.append(counts(snapshot(tables)))
    assert all(first - second in (0, 1) for first, second in seen)
    assert tables[0].statistics()["rebuilds"] > 1


def test_a_snapshot_sees_a_move_from_table_to_table_at_most_half_done() -> None:
    """Blocks go from one table to the next: a torn cut would show one nowhere, or several twice."""
    tables = [Table() for _ in range(4)]
    keys = segment_keys(1, 40)
    for key in keys:
        tables[0].apply(delta([Record(ADD, 0, 1, (key,), 5)]))
    started = threading.Event()

    def move(over: threading.Event) -> None:
        at = 0
        while not over.is_set():
            there = (at + 1) % len(tables)
            for key in keys:
                tables[there].apply(delta([Record(ADD, 0, 1, (key,), 5)]))
                tables[at].apply(delta([Record(REMOVE, 0, 1, (key,), 5)]))
            at = there
            started.set()

    with running(move) as over:
        started.wait()
        for _ in range(300):
            if over.is_set():
                break
            assert sum(counts(snapshot(tables))) in (len(keys), len(keys) + 1)


@pytest.mark.slow
def test_a_snapshot_has_of_a_lane_that_is_replaced_all_old_or_all_new() -> None:
    table = filled(Table(), [added(1, 1), added(1, 2), added(2, 3)])
    old, new = {*segment_keys(1), *segment_keys(2)}, {*segment_keys(8, 500)}
    replaced = threading.Event()

    def replace(over: threading.Event) -> None:
        contents = [[added(1, 8, n=500)], [added(1, 1), added(1, 2)]]
        while not over.is_set():
            for content in contents:
                table.replace([1], delta(content))
            replaced.set()

    with running(replace) as over:
        replaced.wait()
        for _ in range(200):
            if over.is_set():
                break
            held = held_by(snapshot([table])[0].sections())
            assert {key for lane, key in held if lane == 1} in (old, new)
            assert {key for lane, key in held if lane == 2} == {*segment_keys(3)}


@pytest.mark.slow
def test_a_load_shows_the_old_or_the_new_in_all_tables_to_who_looks_meanwhile() -> None:
    """While no table gets its next generation; a match that holds an older one sees that as it was."""
    keys = np.array(segment_keys(1, 1280), np.uint64)
    segments = [tuple(keys[at : at + 128].tolist()) for at in range(0, 1280, 128)]
    source = ShardedIndex(1)
    apply_all(source, [Record(ADD, 0, 1, part, part[0]) for part in segments])
    longer = list(source.export())
    apply_all(source, [Record(REMOVE, 0, 1, part, part[0]) for part in segments[7:]])
    shorter = list(source.export())
    roster = Roster()
    roster.set(0, [0], [])
    lengths = set()
    others = [added(9, segment) for segment in range(1000)]  # so that no table is small
    for _ in range(4):
        index = ShardedIndex(5)
        apply_all(index, others)
        index.load(longer)
        rebuilds = [one["rebuilds"] for one in index.statistics()]
        matched = Index(index.tables, roster)

        def load(over: threading.Event, index: ShardedIndex = index) -> None:
            for content in [shorter, longer] * 4:
                index.load(content)
            over.set()

        with running(load) as over:
            while not over.is_set():
                _workers, held, *_ = matched.match(keys)
                lengths.add(tuple(held.tolist()))
        lengths.add(tuple(matched.match(keys)[1].tolist()))  # also where all was over before the first look
        assert [one["rebuilds"] for one in index.statistics()] == rebuilds
    assert lengths <= {(1280,), (896,)}


def test_a_lane_that_is_cleared_while_it_is_loaded_stays_empty() -> None:
    source = filled(Table(), [added(0, 1), added(1, 1), added(1, 2)])
    sections = list(snapshot([source])[0].sections(keys_max=100))
    target = filled(Table(), [added(0, 9), added(1, 9)])

    def told() -> Iterator[bytes]:
        yield sections[0]
        target.apply(delta([Record(CLEAR_LANE, 1)]))
        yield from sections[1:]

    load_content([target], told())
    held = held_by(snapshot([target])[0].sections())
    assert {lane for lane, _ in held} == {0}
    assert {key for _, key in held} == set(segment_keys(1))


def test_what_is_applied_after_a_snapshot_does_not_change_it() -> None:
    table = filled(Table(), [added(lane, lane) for lane in range(20)])
    (taken,) = snapshot([table])
    before = held_by(taken.sections(keys_max=64))
    table.apply(
        delta([*[Record(CLEAR_LANE, lane) for lane in range(10)], *[added(50, 100 + i) for i in range(200)]])
    )
    table.close()
    del table
    assert held_by(taken.sections()) == before


def hold_all(table: Table, held: list[Snapshot]) -> None:
    while True:
        held += snapshot([table])
        assert table.statistics()["snapshot_bytes"] == sum(one.bytes for one in held) <= 4 << 20


def test_held_snapshots_are_counted_and_bounded_by_the_budget_of_the_table() -> None:
    table = Table(budget_bytes=4 << 20)
    table.apply(delta([added(0, segment) for segment in range(250)]))
    held: list[Snapshot] = []
    with pytest.raises(DumpError, match="let go of one"):
        hold_all(table, held)
    assert len(held) > 1
    held.clear()
    assert table.statistics()["snapshot_bytes"] == 0
    assert snapshot([table])[0].entries == 250 * 128


def test_snapshots_by_several_threads_of_overlapping_tables_end() -> None:
    tables = [filled(Table(), [added(0, one)]) for one in range(4)]

    def take(order: list[Table]) -> Callable[[threading.Event], None]:
        def run(_over: threading.Event) -> None:
            for _ in range(100):
                snapshot(order)

        return run

    def write(over: threading.Event) -> None:
        while not over.is_set():
            for table in tables:
                table.apply(delta([added(1, 5)]))

    with running(write), running(take(tables), take(tables[::-1]), take(tables[1:3])):
        pass
    assert counts(snapshot(tables)) == [256] * 4


@pytest.mark.parametrize("twice", [True, False])
def test_tables_must_be_given_once_each_and_be_open(twice: bool) -> None:
    table = Table()
    with pytest.raises(InputError):
        snapshot([table, table] if twice else [])
    with pytest.raises(InputError):
        load_content([table, table] if twice else [], [])
    table.close()
    with pytest.raises(TableFileError):
        snapshot([table])
    with pytest.raises(TableFileError):
        load_content([table], [])
