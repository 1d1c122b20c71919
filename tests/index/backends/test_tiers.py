"""The same block in several tiers of one lane: each comes and goes by itself."""

from __future__ import annotations

from kvatlas.index.block_index import BlockIndex
from tests.index.backends.harness import Harness
from tests.index.backends.telling import add, blocks, enroll, held, remove, runs, tell, tiers
from tests.models.table import ADD
from tests.models.world import CPU, GPU, STORAGE, chain

SPECULATIVE = 32


def test_each_tier_is_held_by_itself(index: BlockIndex, harness: Harness) -> None:
    for place, tier in enumerate(harness.tiers):
        enroll(index, place)
        keys = chain(150, place)
        add(index, place, keys, tier)
        assert held(index, keys) == [{place: tier}] * 150
        if tier != SPECULATIVE:
            expected = [150 if at == tier.bit_length() - 1 else 0 for at in range(5)]
            assert tiers(index.match(keys)) == {place: expected}


def test_copies_in_two_tiers_are_two_and_the_faster_counts(index: BlockIndex) -> None:
    enroll(index, 0)
    keys = chain(200, 20)
    add(index, 0, keys, CPU)
    add(index, 0, keys[:80], GPU)
    assert held(index, keys) == [{0: GPU | CPU}] * 80 + [{0: CPU}] * 120
    assert tiers(index.match(keys)) == {0: [80, 120, 0, 0, 0]}


def test_a_copy_that_goes_leaves_those_in_other_tiers(index: BlockIndex) -> None:
    enroll(index, 0)
    keys = chain(200, 21)
    tell(index, *blocks(ADD, 0, keys, GPU), *blocks(ADD, 0, keys, CPU))
    remove(index, 0, keys, GPU, first=150)
    assert tiers(index.match(keys)) == {0: [150, 50, 0, 0, 0]}
    remove(index, 0, keys, CPU)
    assert runs(index.match(keys)) == {0: 150}
    remove(index, 0, keys, CPU)
    assert held(index, keys) == [{0: GPU}] * 150 + [{}] * 50


def test_one_record_may_name_several_tiers(index: BlockIndex) -> None:
    keys = chain(130, 22)
    add(index, 0, keys, GPU | STORAGE)
    assert held(index, keys) == [{0: GPU | STORAGE}] * 130
    remove(index, 0, keys, GPU | CPU)
    assert held(index, keys) == [{0: STORAGE}] * 130


def test_the_tiers_of_one_lane_are_not_those_of_another(index: BlockIndex) -> None:
    enroll(index, 1, 2)
    keys = chain(10, 23)
    add(index, 1, keys, GPU)
    add(index, 2, keys, CPU)
    remove(index, 1, keys, CPU)
    remove(index, 2, keys, GPU)
    assert held(index, keys) == [{1: GPU, 2: CPU}] * 10
    assert tiers(index.match(keys)) == {1: [10, 0, 0, 0, 0], 2: [0, 10, 0, 0, 0]}
