"""Replacing what lanes hold: beside a table of dicts, under readers, at the limits."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.index._native import SEGMENT_BLOCKS, Index, Roster, Table, TableReader
from kvatlas.index.errors import InputError, TableFileError
from tests.models.table import ADD, CLEAR_LANE, CLOSE, OPEN, REMOVE, NaiveTable, Record, delta
from tests.models.world import GPU, chain

pytestmark = pytest.mark.native

KEYS = [0, 1, 2, 3, *(i * 0x9E3779B97F4A7C15 % 2**64 for i in range(1, 9))]
LANES = [0, 1, 2, 64, 65_534]
Keys = npt.NDArray[np.uint64]

keys = st.lists(st.sampled_from(KEYS), max_size=8).map(tuple)
lanes = st.sampled_from(LANES)
changes = st.builds(Record, st.sampled_from([ADD, ADD, REMOVE]), lanes, st.sampled_from([1, 2, 3, 32]), keys)
marks = st.builds(Record, st.sampled_from([CLEAR_LANE, CLOSE, OPEN]), lanes)
records = st.lists(changes | changes | marks, max_size=12)


def looked_up(table: Table, asked: list[int]) -> list[dict[int, int]]:
    found = table.lookup(np.array(asked, np.uint64))
    assert all(len({lane for lane, _ in held}) == len(held) for held in found)
    return [dict(held) for held in found]


def segments(op: int, lane: int, blocks: Keys, tier: int = GPU) -> bytes:
    """A whole chain as records of segments."""
    cuts = range(0, len(blocks), SEGMENT_BLOCKS)
    parts = [tuple(blocks[at : at + SEGMENT_BLOCKS].tolist()) for at in cuts]
    return delta(Record(op, lane, tier, part, part[0]) for part in parts)


def matched(table: Table, blocks: Keys) -> tuple[int, int]:
    """Leading blocks that lane 0 holds, and how many slots were looked up for it."""
    roster = Roster()
    roster.set(0, [0], [])
    _workers, held, _tiers, slots_probed, _partial = Index([table], roster).match(blocks)
    return sum(held.tolist()), slots_probed


@given(st.lists(st.tuples(st.none() | st.sets(lanes), records), max_size=6))
def test_any_replaces_and_deltas_leave_what_they_leave_in_dicts(
    steps: list[tuple[set[int] | None, list[Record]]],
) -> None:
    table, model = Table(), NaiveTable()
    for replaced, told in steps:
        if replaced is None:
            table.apply(delta(told))
            for record in told:
                model.apply(record)
        else:
            fitting = [record for record in told if record.lane in replaced]
            assert table.replace(sorted(replaced), delta(fitting)) == len(fitting)
            model.replace(replaced, fitting)
        assert looked_up(table, KEYS) == model.lookup(KEYS)
    table.close()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_large_contents_are_replaced_while_the_table_grows_and_is_compacted(seed: int) -> None:
    random, table, model = np.random.default_rng(seed), Table(budget_bytes=1 << 26), NaiveTable()
    pool = random.integers(2, 2**63, 30_000, dtype=np.uint64)
    for _ in range(12):
        chosen = random.choice(6, 2, replace=False).tolist()
        told = []
        for lane in chosen:
            start, n = random.integers(0, 15_000), random.integers(1, 15_000)
            told.append(Record(ADD, lane, 1, tuple(pool[start : start + n].tolist()), lane + 2))
        table.replace([*chosen, 7], delta(told))
        model.replace([*chosen, 7], told)
        asked = random.choice(pool, 2_000).tolist()
        assert looked_up(table, asked) == model.lookup(asked)
    statistics = table.statistics()
    assert statistics["rebuilds"] > 1
    assert statistics["replaces"] == 12
    assert statistics["entries"] <= len(model.masks) * 3
    assert statistics["lanes"] <= 6
    table.close()


GOOD = Record(ADD, 3, 1, (11, 12)).packed()


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (GOOD[:-1], "delta at byte 0"),
        (GOOD + b"\x06" + GOOD[1:], "delta at byte 40"),
        (
            GOOD + Record(ADD, 4, 1, (13,)).packed(),
            "delta at byte 40: expected one of the 1 lanes to be replaced, got 4",
        ),
        (Record(CLEAR_LANE, 4).packed(), "got 4"),
    ],
)
def test_a_content_that_is_malformed_or_of_another_lane_changes_nothing(told: bytes, says: str) -> None:
    table = Table()
    table.apply(Record(ADD, 3, 2, (11,)).packed())
    with pytest.raises(InputError, match=says):
        table.replace([3], told)
    assert looked_up(table, [11, 12, 13]) == [{3: 2}, {}, {}]
    assert table.statistics()["lanes"] == 1
    table.close()


def test_a_lane_that_cannot_be_is_refused() -> None:
    table = Table()
    with pytest.raises(InputError, match="lanes: expected numbers below 65535, got 65535"):
        table.replace([65_535], b"")
    table.close()
    with pytest.raises(TableFileError, match="closed"):
        table.replace([3], GOOD)


def test_a_content_says_whether_its_lane_is_closed() -> None:
    table, blocks = Table(), chain(300, 1)
    whole = segments(ADD, 0, blocks)
    holed = whole + Record(REMOVE, 0, GPU, (int(blocks[50]),), int(blocks[0])).packed()
    table.replace([0], whole + Record(CLOSE, 0).packed())
    assert matched(table, blocks) == (300, 6), "a segment's first block and its last"
    table.replace([0], holed)
    assert matched(table, blocks)[0] == 50
    table.replace([0], holed + Record(CLOSE, 0).packed() + Record(OPEN, 0).packed())
    assert matched(table, blocks)[0] == 50
    table.close()


@pytest.mark.slow
def test_of_more_lanes_than_there_is_place_for_some_lose_their_content_and_that_is_counted() -> None:
    """65 535 places: of 40 000 lanes replaced at once some find none. They are empty, not wrong."""
    table, lanes = Table(budget_bytes=1 << 27), list(range(40_000))

    def replace(first_key: int) -> list[dict[int, int]]:
        told = (
            Record(op, lane, 1, (first_key + lane,) * (op == ADD)) for lane in lanes for op in (ADD, CLOSE)
        )
        table.replace(lanes, delta(told))
        return looked_up(table, [first_key + lane for lane in lanes])

    assert replace(100_000) == [{lane: 1} for lane in lanes]
    found = replace(200_000)
    assert all(held in ({}, {lane: 1}) for lane, held in zip(lanes, found, strict=True))
    lost = found.count({})
    assert 0 < lost < 20_000
    assert table.statistics()["dropped_adds"] == lost
    assert not any(looked_up(table, list(range(100_000, 140_000))))
    table.close()


@pytest.mark.slow
def test_replaced_lanes_are_used_again_and_never_run_out() -> None:
    table = Table(budget_bytes=1 << 24)
    everything = list(range(1_000))
    for turn in range(200):
        key = turn + 2
        table.replace(everything, delta(Record(ADD, lane, 1, (key,)) for lane in everything))
        assert looked_up(table, [key]) == [dict.fromkeys(everything, 1)]
    assert table.statistics()["lanes"] == 1_000
    assert table.statistics()["dropped_adds"] == 0
    table.close()


class Readers:
    """Threads that call `look` until the block ends, and keep what it says is wrong."""

    def __init__(self, look: object, n: int = 2) -> None:
        self._look = look
        self._done = threading.Event()
        self.wrong: list[object] = []
        self.looks = 0
        self._threads = [threading.Thread(target=self._run) for _ in range(n)]

    def _run(self) -> None:
        assert callable(self._look)
        while not self._done.is_set():
            found = self._look()
            self.looks += 1
            if found is not None:
                self.wrong.append(found)

    def __enter__(self) -> Readers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("attached", [False, True])
def test_a_match_sees_the_old_content_of_all_lanes_or_the_new_one(tmp_path: Path, attached: bool) -> None:
    """Many lanes hold one chain or the other, always the same of the two."""
    table, n = Table(budget_bytes=1 << 26, path=str(tmp_path / "table") if attached else None), 300
    source = TableReader(table.path, age_ms_max=600_000) if attached else table
    one, other = chain(130, 1), chain(130, 2)
    roster = Roster()
    for lane in range(n + 1):
        roster.set(lane, [lane], [])
    index = Index([source], roster)

    def content(blocks: Keys, turn: int) -> bytes:
        told = b"".join(segments(ADD, lane, blocks) for lane in range(n))
        return told + b"".join(Record(CLOSE, lane).packed() for lane in range(n) if turn % 3)

    def look() -> object:
        held = index.match(one)[1].tolist()
        found = [dict(lanes) for lanes in source.lookup(other[[0, 60, 129]])]
        is_sound = held in ([], [130] * n) and all(
            lanes in ({}, dict.fromkeys(range(n), 1)) for lanes in found
        )
        return None if is_sound else (held, found)

    table.replace(list(range(n)), content(one, 0))
    with Readers(look) as readers:
        turn = 0
        while turn < 60 or readers.looks < 200:
            turn += 1
            table.replace(list(range(n)), content((one, other)[turn % 2], turn))
            noise = tuple(np.random.default_rng(turn).integers(2, 2**63, 500).tolist())
            table.apply(Record(ADD, n, GPU, noise, 7).packed() + Record(CLEAR_LANE, n).packed())
    assert readers.wrong == []
    assert table.statistics()["rebuilds"] > 0
    table.close()


def turns_while_loading(table: Table, told: bytes) -> int:
    """How often a writer came between two steps of one load, told by how much was loaded then."""
    loaded = threading.Event()

    def load() -> None:
        table.replace([0], told)
        loaded.set()

    loader, seen, key = threading.Thread(target=load), set(), 2**63
    before = table.statistics()["entries"]
    loader.start()
    while not loaded.is_set():
        key += 1
        table.apply(Record(ADD, 1, GPU, (key,), 8).packed() + Record(REMOVE, 1, GPU, (key,), 8).packed())
        seen.add(table.statistics()["entries"])
    loader.join()
    return len(seen - {before, max(seen)})


def test_a_long_load_lets_other_writers_have_their_turn() -> None:
    blocks = np.random.default_rng(0).integers(2, 2**63, 400_000, dtype=np.uint64)
    told = Record(ADD, 0, GPU, tuple(blocks.tolist()), 7).packed()
    turns = 0
    for _ in range(100):  # of its 48 steps a busy system may let us see few
        table = Table(budget_bytes=1 << 27)
        turns = max(turns, turns_while_loading(table, told))
        assert table.statistics()["entries"] == len(blocks)
        assert all(held == [(0, GPU)] for held in table.lookup(blocks[::100].copy()))
        table.close()
        if turns >= 5:
            return
    pytest.fail(f"another writer had its turn {turns} times in the best of 100 loads")


def test_a_lane_that_is_cleared_while_it_is_loaded_stays_empty() -> None:
    """As when a session ends while its content arrives."""
    table, blocks = (
        Table(budget_bytes=1 << 27),
        np.random.default_rng(0).integers(2, 2**63, 300_000, dtype=np.uint64),
    )
    told = delta(Record(ADD, lane, GPU, tuple(blocks.tolist()), 7) for lane in (1, 2))
    for _ in range(100):
        table.apply(Record(CLEAR_LANE, 1).packed() + Record(CLEAR_LANE, 2).packed())
        records = table.statistics()["entries"]
        loader = threading.Thread(target=table.replace, args=([1, 2], told))
        loader.start()
        while loader.is_alive() and table.statistics()["entries"] == records:
            pass  # it has not begun
        began_before_clear = loader.is_alive()
        table.apply(Record(CLEAR_LANE, 2).packed())
        ended_after_clear = loader.is_alive()
        loader.join()
        held = {lane for found in table.lookup(blocks[[0, 100_000, -1]]) for lane, _ in found}
        assert 2 not in held
        assert held == {1}
        if began_before_clear and ended_after_clear:
            break
    else:
        pytest.fail("the clear never came while the content was loaded")
    assert all(found == [(1, GPU)] for found in table.lookup(blocks[::1000].copy()))
    table.apply(Record(ADD, 2, GPU, (5,)).packed())
    assert looked_up(table, [5]) == [{2: GPU}]
    table.close()


def test_a_table_that_is_closed_while_it_loads_says_so() -> None:
    blocks = tuple(np.random.default_rng(0).integers(2, 2**63, 300_000).tolist())
    told = Record(ADD, 0, GPU, blocks, 7).packed()
    for _ in range(100):
        table = Table(budget_bytes=1 << 27)
        said: list[str] = []

        def load(table: Table = table, said: list[str] = said) -> None:
            try:
                table.replace([0], told)
            except TableFileError as error:
                said.append(str(error))

        loader = threading.Thread(target=load)
        loader.start()
        while loader.is_alive() and table.statistics()["entries"] == 0:
            pass  # it has not begun
        table.close()
        loader.join()
        if said:
            assert "closed" in said[0]
            return
    pytest.fail("no table was ever closed while it loaded")


@pytest.mark.slow
def test_at_the_byte_budget_a_content_is_cut_and_the_lane_is_open() -> None:
    """More than fits: what is missing is counted and no segment of the lane is skipped."""
    table = Table(budget_bytes=4 << 20)
    blocks = chain(200_000, 5)
    table.replace([0], segments(ADD, 0, blocks) + Record(CLOSE, 0).packed())
    statistics = table.statistics()
    held = sum(bool(found) for found in table.lookup(blocks))
    assert 10_000 < held < len(blocks)
    assert held + statistics["dropped_entries"] + statistics["dropped_adds"] == len(blocks)
    kept = [bool(found) for found in table.lookup(blocks)]
    first = next(at for at in range(0, len(blocks), SEGMENT_BLOCKS) if all(kept[at : at + SEGMENT_BLOCKS]))
    segment = blocks[first : first + SEGMENT_BLOCKS]
    assert matched(table, segment) == (SEGMENT_BLOCKS, SEGMENT_BLOCKS + 1), "each block was looked at"
    table.close()
