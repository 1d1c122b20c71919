"""What lanes hold becomes something else, all at once."""

from __future__ import annotations

import threading

import pytest

from kvatlas.index.block_index import BlockIndex
from kvatlas.index.errors import InputError
from tests.index.backends.harness import Harness
from tests.index.backends.telling import Keys, add, blocks, cleared, enroll, held, packed, runs
from tests.models.table import ADD, CLOSE, REMOVE, Record
from tests.models.world import CPU, GPU, chain


def test_replaced_lanes_hold_what_the_delta_leaves_in_empty_ones(index: BlockIndex) -> None:
    enroll(index, 0, 1, 2)
    old, new = chain(200, 70), chain(300, 71)
    for lane in range(3):
        add(index, lane, old)
    told = [*blocks(ADD, 0, new), *blocks(ADD, 1, old[:50], CPU), *blocks(REMOVE, 0, new, first=260)]
    index.replace([0, 1], packed(told))
    assert runs(index.match(old)) == {1: 50, 2: 200}
    assert runs(index.match(new)) == {0: 260}
    assert held(index, old) == [{1: CPU, 2: GPU}] * 50 + [{2: GPU}] * 150


def test_lanes_that_the_delta_does_not_name_are_empty_afterwards(index: BlockIndex) -> None:
    enroll(index, 0, 1)
    keys = chain(20, 72)
    add(index, 0, keys)
    add(index, 1, keys)
    index.replace([0, 7], b"")
    assert runs(index.match(keys)) == {1: 20}


def test_a_clear_within_the_delta_counts(index: BlockIndex) -> None:
    keys = chain(20, 73)
    index.replace([0], packed([*blocks(ADD, 0, keys), cleared(0), *blocks(ADD, 0, keys[:5])]))
    assert held(index, keys) == [{0: GPU}] * 5 + [{}] * 15


def test_deltas_go_on_where_the_replacement_ended(index: BlockIndex) -> None:
    enroll(index, 0)
    keys = chain(200, 74)
    index.replace([0], packed([*blocks(ADD, 0, keys[:100]), Record(CLOSE, 0, 0)]))
    add(index, 0, keys, first=100)
    assert runs(index.match(keys)) == {0: 200}


@pytest.mark.parametrize(
    "told",
    [
        packed(blocks(ADD, 0, chain(5, 75)))[:-1],
        packed([*blocks(ADD, 0, chain(5, 75)), Record(ADD, 4, GPU, (7,), 7)]),
        packed([Record(9, 0, GPU, (7,), 7)]),
    ],
)
def test_a_delta_that_is_malformed_or_of_another_lane_changes_nothing(index: BlockIndex, told: bytes) -> None:
    keys = chain(20, 76)
    add(index, 0, keys, CPU)
    with pytest.raises(InputError):
        index.replace([0], told)
    assert held(index, keys) == [{0: CPU}] * 20
    assert held(index, chain(5, 75)) == [{}] * 5


@pytest.mark.slow
def test_a_reader_sees_the_old_or_the_new(index: BlockIndex, harness: Harness) -> None:
    """A block that a lane holds in one of two tiers is held in just one; else in part, where that is said."""
    keys = chain(100, 77)
    enroll(index, 0)
    contents = [packed(blocks(ADD, 0, keys, tier)) for tier in (GPU, CPU)]
    index.replace([0], contents[0])
    over = threading.Event()
    seen: list[list[dict[int, int]]] = []

    def look() -> None:
        while not over.is_set():
            seen.append(held(index, keys))

    reader = threading.Thread(target=look)
    reader.start()
    for turn in range(30):
        index.replace([0], contents[turn % 2])
    over.set()
    reader.join()
    assert seen
    if harness.replaces_at_once:
        assert all(_is_one(found) for found in seen), next(found for found in seen if not _is_one(found))
    assert _is_one(held(index, keys))


def _is_one(found: list[dict[int, int]]) -> bool:
    return found in ([{0: GPU}] * len(found), [{0: CPU}] * len(found))


def test_contents_of_many_segments_are_replaced_again_and_again(index: BlockIndex) -> None:
    chains: list[Keys] = [chain(1_000, seed) for seed in range(80, 84)]
    enroll(index, 0, 1)
    for turn in range(8):
        index.replace([turn % 2], packed(blocks(ADD, turn % 2, chains[turn % 4])))
        expected = {turn % 2: 1_000}
        assert runs(index.match(chains[turn % 4])) == expected
