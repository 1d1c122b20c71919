"""What cannot be applied or asked is refused, and leaves all as it was."""

from __future__ import annotations

import numpy as np
import pytest

from kvatlas.index.block_index import BlockIndex
from kvatlas.index.errors import InputError
from tests.index.backends.telling import add, blocks, enroll, held, packed, runs
from tests.models.table import ADD, Record
from tests.models.world import GPU, chain

GOOD = packed(blocks(ADD, 1, chain(5, 140)))


@pytest.mark.parametrize(
    "malformed",
    [
        GOOD[:-1],
        GOOD + b"\x01",
        GOOD + Record(9, 1, GPU, (7,), 7).packed(),
        GOOD + Record(0, 1, GPU, (7,), 7).packed(),
        GOOD + Record(ADD, 65_535, GPU, (7,), 7).packed(),
        GOOD + Record(ADD, 1, 0, (7,), 7).packed(),
        GOOD + Record(ADD, 1, 64, (7,), 7).packed(),
        GOOD[:4] + b"\xff\xff\xff\xff" + GOOD[8:],
    ],
    ids=["cut", "longer", "unknown-op", "op-0", "no-lane", "no-tier", "unknown-tier", "count"],
)
def test_a_malformed_buffer_is_refused_whole(index: BlockIndex, malformed: bytes) -> None:
    keys = chain(20, 141)
    add(index, 0, keys)
    with pytest.raises(InputError):
        index.apply([malformed] * index.n_shards)
    assert held(index, keys) == [{0: GPU}] * 20
    assert held(index, chain(5, 140)) == [{}] * 5
    add(index, 1, chain(5, 140))
    assert held(index, chain(5, 140)) == [{1: GPU}] * 5


def test_another_number_of_buffers_is_refused(index: BlockIndex) -> None:
    for deltas in ([], [b""] * (index.n_shards + 1)):
        with pytest.raises(InputError):
            index.apply(deltas)


def test_lanes_that_cannot_be_are_refused(index: BlockIndex) -> None:
    for lane in (65_535, 2**31):
        with pytest.raises(InputError):
            index.remove_lane(lane)
        with pytest.raises(InputError):
            index.replace([lane], b"")


def test_a_prompt_that_its_keys_do_not_fit_is_refused(index: BlockIndex) -> None:
    enroll(index, 0)
    keys = chain(5, 142)
    add(index, 0, keys)
    with pytest.raises(InputError):
        index.match(keys, prompt_tokens=80, block_size_tokens=0, strategy="reusable")
    with pytest.raises(InputError):
        index.match(keys, prompt_tokens=2, block_size_tokens=16, strategy="reusable")
    assert runs(index.match(keys)) == {0: 5}


def test_keys_of_any_value_are_looked_up(index: BlockIndex) -> None:
    enroll(index, 0)
    keys = np.array([2**64 - 1, 2, 2**63, 2**32], np.uint64)
    add(index, 0, keys)
    assert runs(index.match(keys)) == {0: 4}
    assert held(index, keys) == [{0: GPU}] * 4


def test_closing_twice_is_fine(index: BlockIndex) -> None:
    index.close()
    index.close()
