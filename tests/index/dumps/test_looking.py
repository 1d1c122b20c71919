"""Comparing and searching contents, beside sets in Python."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.index._native import Table, content_of, search_section, segment_tag, snapshot
from kvatlas.index.dumps.diffing import TIER_NAMES, DiffRow, Dumped, diff
from kvatlas.index.dumps.owners import LaneOwner, owners_of
from kvatlas.index.dumps.searching import search
from kvatlas.index.errors import InputError
from kvatlas.index.view import FleetPart
from tests.index.dumps.worlds import Held, added, filled, held_by, part_of, segment_keys
from tests.models.table import ADD, CLEAR_LANE, Record

pytestmark = pytest.mark.native

records = st.lists(
    st.builds(
        Record,
        st.sampled_from([ADD, ADD, ADD, CLEAR_LANE]),
        st.integers(0, 3),
        st.sampled_from([1, 2, 3, 33]),
        st.lists(st.integers(1, 12), max_size=6).map(tuple),
    ),
    max_size=10,
).map(lambda told: [one if one.op == ADD else Record(CLEAR_LANE, one.lane) for one in told])


def pairs_of(held: Held, lane_of: dict[int, int]) -> set[tuple[int, str, int]]:
    return {
        (lane_of[lane], name, key)
        for (lane, key), tiers in held.items()
        if lane in lane_of
        for bit, name in enumerate(TIER_NAMES)
        if tiers >> bit & 1
    }


@given(records, records)
def test_a_diff_counts_what_sets_of_pairs_count(left: list[Record], right: list[Record]) -> None:
    """The right side has other numbers for the same pods, and a lane that nobody names."""
    pods = {"a": 0, "b": 1, "c": 2}
    others = {"c": 0, "a": 1, "b": 3}
    contents = [list(snapshot([filled(Table(), told)])[0].sections(3)) for told in (left, right)]
    rows = diff(Dumped([part_of(pods)], contents[0]), Dumped([part_of(others)], contents[1]))
    a = pairs_of(held_by(contents[0]), {lane: lane for lane in pods.values()})
    b = pairs_of(held_by(contents[1]), {lane: pods[pod] for pod, lane in others.items()})
    names = {lane: pod for pod, lane in pods.items()}
    counted = [Counter((names[lane], tier) for lane, tier, _ in pairs) for pairs in (a - b, b - a, a & b)]
    assert {(row.owner.pod, row.tier): row[2:] for row in rows} == {
        of: tuple(counter[of] for counter in counted) for of in counted[0] | counted[1] | counted[2]
    }
    assert rows == sorted(rows, key=lambda row: -row.only_left - row.only_right)


def test_a_diff_of_a_content_with_itself_finds_nothing_on_one_side_only() -> None:
    content = list(snapshot([filled(Table(), [added(lane, lane // 2) for lane in range(8)])])[0].sections())
    parts = [part_of({f"pod{lane}": lane for lane in range(7)}, {"nfs": 7})]
    rows = diff(Dumped(parts, content), Dumped(parts, content))
    assert len(rows) == 8
    assert DiffRow(LaneOwner(store="nfs"), "gpu", 0, 0, 128) in rows
    assert all((row.only_left, row.only_right, row.both) == (0, 0, 128) for row in rows)


def looked_at() -> Dumped:
    table = filled(Table(), [added(0, 1), added(1, 1, 3), added(1, 2, 2), added(2, 2, 8), added(9, 3)])
    part = FleetPart(
        workers=(*part_of({"a": 0}).workers, *part_of({"b": 1}, model="n").workers), stores={"nfs": 2}
    )
    return Dumped([part], list(snapshot([table])[0].sections(100)))


def test_a_search_finds_pairs_by_pod_model_store_tier_and_key() -> None:
    key = segment_keys(1)[5]
    tag = segment_tag(segment_keys(1)[0])
    found = search(looked_at(), keys=np.array([key], np.uint64))
    assert found.total == 2
    assert set(found.rows) == {
        (key, tag, LaneOwner("m", "a"), ("gpu",)),
        (key, tag, LaneOwner("n", "b"), ("gpu", "cpu")),
    }
    assert search(looked_at()).total == 4 * 128  # lane 9 is nobody's
    assert search(looked_at(), pod="b").total == search(looked_at(), model="n").total == 256
    assert search(looked_at(), store="nfs").total == search(looked_at(), tier="storage").total == 128
    assert search(looked_at(), pod="b", tier="gpu").total == 128
    assert search(looked_at(), pod="b", model="m").total == search(looked_at(), pod="none").total == 0
    assert {row.tiers for row in search(looked_at(), tier="cpu").rows} == {("cpu",)}


def test_a_search_shows_no_more_than_asked_for_and_counts_all() -> None:
    for rows_max in (0, 1, 130, 100_000):
        found = search(looked_at(), rows_max=rows_max)
        assert found.total == 512
        assert len(found.rows) == min(rows_max, 512)
    with pytest.raises(InputError, match="tier: expected one of gpu, cpu"):
        search(looked_at(), tier="tape")


def test_a_search_of_a_record_takes_keys_in_any_order() -> None:
    (section,) = snapshot([filled(Table(), [added(0, 1)])])[0].sections()
    keys = content_of(section).keys[[9, 3, 7]]
    total, rows = search_section(section, {0: 1}, keys[::-1].copy())
    assert total == 3
    assert {row[0] for row in rows} == set(keys.tolist())


def test_of_two_lanes_with_one_owner_the_first_counts() -> None:
    assert owners_of([part_of({"a": 4}), part_of({"a": 5, "b": 6})]) == {
        4: LaneOwner("m", "a"),
        6: LaneOwner("m", "b"),
    }
