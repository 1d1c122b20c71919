"""Matches among some workers only, and by the roster of the moment."""

from __future__ import annotations

import pytest

from kvatlas.index.block_index import BlockIndex
from tests.index.backends.telling import add, enroll, runs
from tests.models.world import chain


@pytest.fixture
def filled(index: BlockIndex) -> BlockIndex:
    """Workers 0 to 9 hold ten blocks more than the one before."""
    enroll(index, *range(10))
    for lane in range(10):
        add(index, lane, chain(200, 40)[: 10 * (lane + 1)])
    return index


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        (None, range(10)),
        (b"", ()),
        (bytes(10), ()),
        (bytes(5) + b"\x01", (5,)),
        (b"\x01\x00" * 5, (0, 2, 4, 6, 8)),
        (bytearray(b"\x07" * 300), range(10)),
    ],
)
def test_only_workers_that_are_allowed_are_matched(
    filled: BlockIndex, allowed: bytes | bytearray | None, expected: tuple[int, ...]
) -> None:
    assert runs(filled.match(chain(200, 40), allowed)) == {n: 10 * (n + 1) for n in expected}


def test_a_worker_that_left_the_roster_is_not_matched(filled: BlockIndex) -> None:
    filled.roster.set(9, [], [])
    assert 9 not in runs(filled.match(chain(200, 40)))


def test_lanes_of_no_worker_are_not_matched_until_they_are_somebodys(filled: BlockIndex) -> None:
    add(filled, 77, chain(200, 40))
    assert max(runs(filled.match(chain(200, 40)))) == 9
    filled.roster.set(3, [77], [])
    assert runs(filled.match(chain(200, 40)))[3] == 200
